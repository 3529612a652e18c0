import numpy as np
import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm import probes
from batchnorm.errors import DimensionError


class Residual(nn.Module):
    def __init__(self, width, norm):
        super().__init__()
        self.branch = nn.Sequential(norm(width), nn.Linear(width, width, bias=False))

    def forward(self, x):
        return x + self.branch(x)


def residual(depth, norm, width=32):
    torch.manual_seed(0)
    model = nn.Sequential(*(Residual(width, norm) for _ in range(depth))).double()
    for block in model:
        nn.init.normal_(block.branch[1].weight, std=width**-0.5)
    return model


@pytest.mark.parametrize("norm", [bn.BatchNorm1d, nn.BatchNorm1d, nn.Identity])
def test_skip_path_and_branches_of_a_residual_network(norm):
    model = residual(6, norm)
    x = torch.randn(16, 32, dtype=torch.float64)
    paths = [path for index in range(6) for path in (f"{index}.branch", str(index))]
    seen = iter(probes.moments_by_depth(model, x, paths))
    skip = x.numpy()
    for block in model:
        normed = skip if norm is nn.Identity else (skip - skip.mean(0)) / np.sqrt(skip.var(0) + 1e-5)
        added = normed @ block.branch[1].weight.detach().numpy().T
        branch, whole = next(seen), next(seen)
        for found, expected in (
            *((branch.input, skip), (branch.output, added)),
            *((whole.input, skip), (whole.output, skip + added)),
        ):
            assert found.count == 16
            np.testing.assert_allclose(found.mean, expected.mean(0), atol=1e-12)
            np.testing.assert_allclose(found.var, expected.var(0), rtol=1e-11)
            np.testing.assert_allclose(found.second_moment(), (expected**2).mean(0), rtol=1e-11)
        skip = skip + added


@pytest.mark.parametrize("channel_dim", [1, -1])
def test_channels_lie_where_they_are_said_to(channel_dim):
    x = torch.randn(3, 4, 5, 2)
    [seen] = probes.moments_by_depth(nn.Sequential(nn.Identity()), x, ["0"], channel_dim=channel_dim)
    others = (0, 2, 3) if channel_dim == 1 else (0, 1, 2)
    np.testing.assert_allclose(seen.output.var, x.double().numpy().var(others), rtol=1e-12)
    assert seen.output.count == x.numel() // x.shape[channel_dim]


def test_a_dimension_that_is_not_there_is_refused():
    with pytest.raises(DimensionError, match=r"channel_dim: 1 is no dimension of shape \(3,\)"):
        probes.moments_by_depth(nn.Sequential(nn.Identity()), torch.ones(3), ["0"])


def test_stable_rank_by_depth_collapses_in_a_linear_network_and_not_with_batch_norm():
    """Each rank against the singular values of the same matrix product; claim 17 in small."""
    torch.manual_seed(0)
    depth, width = 60, 16
    linear = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(depth))).double()
    normed = nn.Sequential(*(m for layer in linear for m in (layer, bn.BatchNorm1d(width).double())))
    for layer in linear:
        nn.init.normal_(layer.weight, std=width**-0.5)
    x = torch.eye(width, dtype=torch.float64)
    found = probes.stable_rank_by_depth(linear, x, [str(index) for index in range(depth)])
    product = np.eye(width)
    for seen, layer in zip(found, linear, strict=True):
        product = product @ layer.weight.detach().numpy().T
        squares = np.linalg.svd(product, compute_uv=False) ** 2
        assert seen.output.item() == pytest.approx(squares.sum() ** 2 / (squares**2).sum(), rel=1e-9)
    last = probes.stable_rank_by_depth(normed, x, [str(2 * depth - 1)])[0].output
    assert found[-1].output < 1.5 < last
