"""Moments of parts, pooled."""

import pytest
import torch

from batchnorm.moments import Moments, pool


@pytest.mark.parametrize("sizes", [(3, 4), (1, 0, 6), (0, 0, 2), (5,)])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_parts_pool_to_the_whole(sizes, shift) -> None:
    x = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + shift
    parts = [(len(part), part.sum(0) / max(len(part), 1)) for part in x.split(sizes)]
    var = [
        (part - mean).square().sum(0) / max(n, 1)
        for part, (n, mean) in zip(x.split(sizes), parts, strict=True)
    ]
    count = torch.tensor([float(n) for n, _ in parts], dtype=torch.float64)
    pooled = pool(count, torch.stack([mean for _, mean in parts]), torch.stack(var))
    assert pooled.count == len(x)
    torch.testing.assert_close(pooled.mean, x.mean(0), rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(pooled.var, x.var(0, correction=0), rtol=1e-9, atol=1e-12)


def test_nothing_pools_to_nothing() -> None:
    pooled = pool(torch.zeros(2), torch.zeros(2, 3), torch.zeros(2, 3))
    assert pooled.count == 0
    assert torch.equal(torch.cat([pooled.mean, pooled.var]), torch.zeros(6))


def test_one_value_has_no_unbiased_variance() -> None:
    for count in (1, torch.tensor(1.0)):
        assert torch.equal(Moments(count, torch.zeros(2), torch.ones(2)).unbiased_var(), torch.ones(2))


def test_channels_may_have_counts_of_their_own() -> None:
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # Of the second channel the first part has nothing.
    count = torch.tensor([[4.0, 0.0], [5.0, 5.0]], dtype=torch.float64)
    mean = torch.stack([x[:4].mean(0), x[4:].mean(0)])
    var = torch.stack([x[:4].var(0, correction=0), x[4:].var(0, correction=0)])
    pooled = pool(count, mean, var)
    assert pooled.count.tolist() == [9, 5]
    torch.testing.assert_close(pooled.mean, torch.stack([x[:, 0].mean(), x[4:, 1].mean()]))
    expected = torch.stack([x[:, 0].var(), x[4:, 1].var()])
    torch.testing.assert_close(pooled.unbiased_var(), expected)
