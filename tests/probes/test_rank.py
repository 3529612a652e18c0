import numpy as np
import pytest
import torch

from batchnorm import probes
from batchnorm.errors import DimensionError


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 5), (1, 4), (6, 2, 3, 2)])
@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_it_is_the_formula_on_the_eigenvalues(shape, scale):
    values = np.random.default_rng(0).normal(size=shape)
    eigenvalues = np.linalg.svd(values.reshape(len(values), -1), compute_uv=False) ** 2 / len(values)
    expected = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert probes.stable_rank(torch.from_numpy(values * scale)).item() == pytest.approx(expected, rel=1e-12)


def test_its_bounds():
    orthogonal, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    assert probes.stable_rank(torch.from_numpy(orthogonal)).item() == pytest.approx(6)
    line = torch.outer(torch.arange(1.0, 5), torch.arange(1.0, 8))
    assert probes.stable_rank(line).item() == pytest.approx(1, rel=1e-12)


def test_half_precision_is_summed_in_float64():
    values = torch.randn(300, 40, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert probes.stable_rank(values) == probes.stable_rank(values.double())


@pytest.mark.parametrize("values", [torch.zeros(3, 2), torch.empty(0, 2), torch.tensor([[np.inf, 1.0]])])
def test_without_a_direction_it_is_nan(values):
    assert probes.stable_rank(values).isnan()


def test_one_dimension_is_refused():
    with pytest.raises(DimensionError, match=r"values: expected \(N, d, ...\), got shape \(3,\)"):
        probes.stable_rank(torch.ones(3))
