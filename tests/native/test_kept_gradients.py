"""Backward of costly activations keeps dy between its passes: every value comes back in its place."""

import pytest
import torch

from batchnorm.activations import resolve
from batchnorm.ops import Affine, native, reference

LENGTHS = [
    *range(2, 70),
    95,
    130,
    1100,
]  # of a run: pairs, whole vectors and tails, and more than one block of a sum


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("act", ["silu", "elu"])
def test_kept_is_what_would_be_computed_again(library, dtype, masked, act) -> None:
    for length in LENGTHS:
        generator = torch.Generator().manual_seed(length)
        x, grad, residual = (torch.randn(3, 5, length, generator=generator).to(dtype) for _ in range(3))
        mask = torch.arange(3 * length).view(3, 1, length) % 3 != 1 if masked else None
        weight, bias = torch.linspace(0.5, 2, 5).double(), torch.linspace(-1, 1, 5).double()
        affine = Affine(weight, bias, residual, resolve(act), mask)
        found = native.moments(x, mask, 1)
        invstd = torch.rsqrt(found.var + 1e-5)
        count = torch.full_like(invstd, 3 * length if mask is None else mask.sum())
        rows = torch.stack([found.mean, invstd, found.var, count])
        # A pass alone has nothing to keep.
        sums = native.grad_moments(grad, x, found.mean, invstd, affine, 1)
        means = (sums[0] / count, sums[1] / count)
        again, again_residual = native.grad_input(grad, x, found.mean, invstd, affine, 1, means)
        grad_x, _, grad_bias, grad_residual = native.backward(
            grad, x, rows, affine, 1, [True] * 4, torch.float64
        )
        assert torch.equal(grad_residual, again_residual)
        assert torch.equal(grad_bias, sums[0])
        # The sums of a pass alone go through a quotient more.
        torch.testing.assert_close(grad_x, again, rtol=torch.finfo(dtype).eps * 2, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_a_part_of_a_channel_is_kept(library, dtype, masked) -> None:
    """2.6 MB of a channel's dy, of which some runs fit into half of a second-level cache."""
    shape = (20, 4, 2**15 + 5)  # whole channels for one thread as for two
    generator = torch.Generator().manual_seed(0)
    x, grad, residual = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    mask = torch.arange(shape[0] * shape[2]).view(shape[0], 1, shape[2]) % 3 != 1 if masked else None
    affine = Affine(None, None, residual, resolve("silu"), mask)
    mean, invstd = torch.linspace(-0.5, 0.5, 4).double(), torch.linspace(0.5, 2, 4).double()
    count = torch.full_like(mean, shape[0] * shape[2] if mask is None else mask.sum())
    rows = torch.stack([mean, invstd, invstd, count])
    sums = native.grad_moments(grad, x, mean, invstd, affine, 1)
    means = (sums[0] / count, sums[1] / count)
    again, again_residual = native.grad_input(grad, x, mean, invstd, affine, 1, means)
    grad_x, _, _, grad_residual = native.backward(grad, x, rows, affine, 1, [True] * 4, None)
    assert torch.equal(grad_residual, again_residual)
    torch.testing.assert_close(grad_x, again, rtol=torch.finfo(dtype).eps * 2, atol=1e-6)


def test_a_channel_too_large_to_keep(library) -> None:
    x = torch.randn(2, 2, 2**19 + 5, generator=torch.Generator().manual_seed(0))
    affine = Affine(act=resolve("silu"))
    mean, invstd = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    rows = torch.stack([mean, invstd, invstd, torch.full_like(mean, x[:, 0].numel())])
    grad_x, *_ = native.backward(x, x, rows, affine, 1, [True, False, False, False], None)
    sums = reference.grad_moments(x.double(), x.double(), mean, invstd, affine, 1)
    means = (sums[0] / rows[3], sums[1] / rows[3])
    expected, _ = reference.grad_input(x.double(), x.double(), mean, invstd, affine, 1, means)
    torch.testing.assert_close(grad_x, expected.float(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("channels", [1, 7, 16, 37, 160])
def test_over_rows_it_is_kept_in_a_gradient(library, dtype, masked, added, channels) -> None:
    generator = torch.Generator().manual_seed(channels)
    x, grad, residual = (torch.randn(70, channels, generator=generator).to(dtype) for _ in range(3))
    mask = torch.arange(70).view(70, 1) % 3 != 1 if masked else None
    weight, bias = (torch.linspace(low, 2, channels).double() for low in (0.5, -1))
    affine = Affine(weight, bias, residual if added else None, resolve("silu"), mask)
    found = native.moments(x, mask, 1)
    invstd = torch.rsqrt(found.var + 1e-5)
    count = torch.full_like(invstd, 70 if mask is None else mask.sum())
    rows = torch.stack([found.mean, invstd, found.var, count])
    sums = native.grad_moments(grad, x, found.mean, invstd, affine, 1)
    means = (sums[0] / count, sums[1] / count)
    again, again_residual = native.grad_input(grad, x, found.mean, invstd, affine, 1, means)
    needs = [True, True, True, added]
    grad_x, _, _, grad_residual = native.backward(grad, x, rows, affine, 1, needs, torch.float64)
    if added:
        assert torch.equal(grad_residual, again_residual)
    torch.testing.assert_close(grad_x, again, rtol=torch.finfo(dtype).eps * 2, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_tanh", "elu"])
def test_a_value_does_not_depend_on_what_stands_beside_it(library, dtype, masked, act) -> None:
    # Four vectors at once, two, one or a part of one: which it is follows from the length of the run.
    generator = torch.Generator().manual_seed(0)
    x, grad, residual = (torch.randn(1, 2, 260, generator=generator).to(dtype) for _ in range(3))
    x, mask = x * 3, torch.arange(260).view(1, 1, 260) % 3 != 1
    mean, invstd = torch.tensor([0.25, -0.5]).double(), torch.tensor([1.5, 0.75]).double()
    means = (torch.tensor([0.125, -2]).double(), torch.tensor([0.5, 0.25]).double())

    def outputs(length: int) -> list[torch.Tensor]:
        of = [tensor[..., :length].contiguous() for tensor in (x, grad, residual, mask)]
        affine = Affine(residual=of[2], act=resolve(act), mask=of[3] if masked else None)
        y = native.normalize(of[0], mean, invstd, affine, 1)
        return [y, *native.grad_input(of[1], of[0], mean, invstd, affine, 1, means)]

    whole = outputs(260)
    for length in range(2, 131):
        for found, expected in zip(outputs(length), whole, strict=True):
            assert torch.equal(found, expected[..., :length]), length
