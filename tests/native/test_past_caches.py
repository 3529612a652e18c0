"""Large outputs: what is far from a core is asked for ahead, what no cache holds is written past them, in vectors."""

import pytest
import torch
from torch import Tensor

from batchnorm.activations import resolve
from batchnorm.ops import Affine, memory, native

FAR, PAST = 5 << 20, 12 << 20  # three are that far, and halves nearer


@pytest.mark.parametrize("tensor_bytes", [FAR, PAST])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inner", [1, 4096])
@pytest.mark.parametrize("offset", [0, 1])
def test_a_large_tensor_gets_what_its_halves_get(
    library, monkeypatch, tensor_bytes, dtype, inner, offset
) -> None:
    def somewhere(like: Tensor) -> Tensor:
        return torch.full((like.numel() + offset,), 7.0, dtype=like.dtype)[offset:].view(like.shape)

    monkeypatch.setattr(memory, "empty_like", somewhere)
    outer = tensor_bytes // dtype.itemsize // 64 // inner
    x = torch.randn(outer, 64, inner, generator=torch.Generator().manual_seed(0)).to(dtype)
    grad, residual = x.flip(0), x.flip(1)
    mask = torch.arange(outer * inner).view(outer, 1, inner) % 3 != 1
    low, high = (torch.linspace(-bound, bound, 64).double() for bound in (0.5, 2))

    def outputs(part: slice) -> list[Tensor]:
        affine = Affine(1.5 + low, high, residual[part], resolve("silu"), mask[part])
        y = native.normalize(x[part], low, 1 + low, affine, 1)
        return [y, *native.grad_input(grad[part], x[part], low, 1 + low, affine, 1, (high / 4, low / 2))]

    halves = zip(outputs(slice(outer // 2)), outputs(slice(outer // 2, outer)), strict=True)
    for found, both in zip(outputs(slice(outer)), halves, strict=True):
        assert torch.equal(found, torch.cat(both))
