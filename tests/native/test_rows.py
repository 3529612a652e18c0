"""Rows in which the channels lie side by side: several go through a costly activation at once, or one under a mask."""

import pytest
import torch

from batchnorm.activations import resolve
from batchnorm.ops import Affine, native, reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("act", ["silu", "gelu"])
@pytest.mark.parametrize("shape", [(23, 37), (71, 5)], ids=str)
def test_every_row_gets_what_is_its_own(library, dtype, masked, act, shape) -> None:
    rows, channels = shape
    generator = torch.Generator().manual_seed(rows)
    x, grad, residual = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    mask = torch.arange(rows).view(rows, 1) % 3 != 1 if masked else None
    low, high = (torch.linspace(-bound, bound, channels).double() for bound in (0.5, 2))
    affine = Affine(1.5 + low, high, residual, resolve(act), mask)
    exact = affine._replace(residual=residual.double())
    per_channel = (low, 1 + low, affine, 1)
    means = (high / 4, low / 2)
    found = [
        native.normalize(x, *per_channel),
        *native.grad_input(grad, x, *per_channel, means),
        *native.grad_moments(grad, x, *per_channel),
    ]
    x, grad, per_channel = x.double(), grad.double(), (low, 1 + low, exact, 1)
    expected = [
        reference.normalize(x, *per_channel),
        *reference.grad_input(grad, x, *per_channel, means),
        *reference.grad_moments(grad, x, *per_channel),
    ]
    rounding = torch.finfo(dtype).eps / 2
    for mine, truth in zip(found[:3], expected, strict=False):
        torch.testing.assert_close(mine.double(), truth, rtol=rounding + 2e-6, atol=4e-6)
    for mine, truth in zip(found[3:], expected[3:], strict=True):
        torch.testing.assert_close(mine, truth, rtol=2e-6, atol=4e-5)
