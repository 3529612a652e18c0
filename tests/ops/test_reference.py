"""The operators one by one: the seams that sync, ghost and renorm will use."""

import pytest
import torch

from batchnorm.activations import resolve
from batchnorm.moments import Moments
from batchnorm.ops import Affine, reference

X = torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_moments_are_wide_and_biased() -> None:
    batch = reference.moments(X.float(), None, 1)
    assert batch.count == 30
    assert batch.mean.dtype == batch.var.dtype == torch.float64
    torch.testing.assert_close(batch.mean, X.float().double().mean((0, 2)))
    torch.testing.assert_close(batch.var, X.float().double().var((0, 2), correction=0))


def test_masked_moments_are_those_of_the_valid_values() -> None:
    mask = torch.rand(6, 1, 5, generator=torch.Generator().manual_seed(1)) < 0.6
    spoiled = torch.where(mask, X, torch.nan)
    batch = reference.moments(spoiled, mask, 1)
    rows = X.movedim(1, -1)[mask.squeeze(1)]
    assert batch.count == len(rows)
    torch.testing.assert_close(batch.mean, rows.mean(0))
    torch.testing.assert_close(batch.var, rows.var(0, correction=0))


@pytest.mark.parametrize("channel_dim", [0, 1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_blocks_change_nothing(channel_dim, masked, monkeypatch) -> None:
    moved = X.movedim(1, channel_dim)
    mask = None
    if masked:
        shape = [1 if dim == channel_dim else size for dim, size in enumerate(moved.shape)]
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6
    grad, affine = torch.randn_like(moved), Affine(mask=mask)
    results = []
    for block in (10**9, 7):
        monkeypatch.setattr(reference, "_BLOCK", block)
        batch = reference.moments(moved, mask, channel_dim)
        sums = reference.grad_moments(grad, moved, batch.mean, batch.var.rsqrt(), affine, channel_dim)
        results.append((batch.mean, batch.var, *sums))
    for whole, cut in zip(*results, strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-13, atol=1e-13)


def test_the_low_part_of_the_mean_is_used() -> None:
    x = (X + 1e7).float()
    batch = reference.moments(x, None, 1)
    out = reference.normalize(x, batch.mean, batch.var.rsqrt(), Affine(), 1).double()
    assert out.mean((0, 2)).abs().max() < 1e-6
    rounded = reference.normalize(x, batch.mean.float(), batch.var.rsqrt(), Affine(), 1).double()
    assert rounded.mean((0, 2)).abs().max() > 1e-3


def test_gradients_of_the_operators_are_those_of_autograd() -> None:
    x, r = X.clone().requires_grad_(), X.flip(0).clone().requires_grad_()
    weight, bias = torch.rand(3).double().requires_grad_(), torch.rand(3).double().requires_grad_()
    affine = Affine(weight, bias, r, resolve("silu"))
    batch = reference.moments(x, None, 1)
    invstd = (batch.var + 1e-5).rsqrt()
    out = reference.normalize(x, batch.mean, invstd, affine, 1)
    grad = torch.randn_like(out)
    expected = torch.autograd.grad(out, (x, r, weight, bias), grad)
    with torch.no_grad():
        sum_dy, sum_dy_xmu = reference.grad_moments(grad, x, batch.mean, invstd, affine, 1)
        grad_x, grad_r = reference.grad_input(
            grad, x, batch.mean, invstd, affine, 1, (sum_dy / 30, sum_dy_xmu / 30)
        )
    for mine, truth in zip((grad_x, grad_r, sum_dy_xmu * invstd, sum_dy), expected, strict=True):
        torch.testing.assert_close(mine, truth)


@pytest.mark.parametrize(("count", "factor"), [(0, 0.0), (1, 1.0), (2, 2.0), (5, 1.25)])
def test_unbiased_variance(count, factor) -> None:
    var = torch.tensor([2.0])
    assert Moments(count, var, var).unbiased_var() == 2.0 * factor
    assert Moments(torch.tensor(float(count)), var, var).unbiased_var() == 2.0 * factor
