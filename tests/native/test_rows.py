"""Rows of channels side by side: several at once of a costly activation, one under a mask, long ones in turn."""

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("act", [None, "relu", "silu"])
@pytest.mark.parametrize("masked", [False, True])
def test_long_rows_from_far_away(library, dtype, act, masked) -> None:
    """Each is 3 * 2048 bytes long, and all of them more than the 8 MB from which they are taken one after the other."""
    channels = 3 * 2048 // dtype.itemsize
    rows = (8 << 20) // (3 * 2048) + 11
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(rows, channels, generator=generator).add_(3).to(dtype) for _ in range(2))
    low, high = (torch.linspace(-bound, bound, channels).double() for bound in (0.5, 2))
    mask = torch.arange(rows).view(rows, 1) % 3 != 1 if masked else None
    affine = Affine(1.5 + low, high, None, resolve(act), mask)

    def of_each_value(part: slice) -> list[torch.Tensor]:
        of_part = affine._replace(mask=None if mask is None else mask[part])
        per_channel = (3 + low, 1 + low, of_part, 1)
        y = native.normalize(x[part], *per_channel)
        return [y, native.grad_input(grad[part], x[part], *per_channel, (high / 4, low / 2))[0]]

    pieces = [slice(first, first + 64) for first in range(0, rows, 64)]
    for found, expected in zip(
        of_each_value(slice(rows)), zip(*map(of_each_value, pieces), strict=True), strict=True
    ):
        assert torch.equal(found, torch.cat(expected))

    batch, valid = native.moments(x, mask, 1), x.double()
    if mask is not None:
        valid = valid[mask[:, 0]]
    torch.testing.assert_close(batch.mean, valid.mean(0), rtol=1e-7, atol=0)
    torch.testing.assert_close(batch.var, valid.var(0, correction=0), rtol=1e-6, atol=0)
    sums = native.grad_moments(grad, x, 3 + low, 1 + low, affine, 1)
    exact = reference.grad_moments(grad.double(), x.double(), 3 + low, 1 + low, affine, 1)
    for mine, truth in zip(sums, exact, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-6, atol=1e-5 * rows**0.5)
