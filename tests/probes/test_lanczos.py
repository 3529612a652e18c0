import math

import numpy as np
import pytest
import torch

from batchnorm.probes.lanczos import largest_eigenvalue


def search(matrix, tolerance=1e-10, max_iterations=100, dtype=torch.float64):
    matrix = torch.from_numpy(matrix).to(dtype)
    start = torch.randn(len(matrix), dtype=dtype, generator=torch.Generator().manual_seed(0))
    return largest_eigenvalue(lambda v: matrix @ v, start, tolerance=tolerance, max_iterations=max_iterations)


def with_eigenvalues(values):
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(len(values), len(values))))
    return q @ np.diag(values) @ q.T


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(-3, 2, 40),
        np.r_[np.zeros(38), 5, 5.0],
        np.full(30, 4.0),
        np.r_[-1e6, np.linspace(0, 1, 20)],
        np.linspace(-2, -1, 12),
        np.zeros(7),
        [2.0],
        [-2.0],
        1e-12 * np.linspace(0, 1, 20),
    ],
)
def test_it_is_the_largest_of_the_eigenvalues(values):
    matrix = with_eigenvalues(values)
    found = search(matrix)
    expected = np.linalg.eigvalsh(matrix)
    assert found.value == pytest.approx(expected[-1], rel=1e-9, abs=1e-13 * np.abs(expected).max())
    assert found.iterations <= len(values)
    assert found.residual <= 1e-9 * max(abs(expected[-1]), 1e-4 * np.abs(expected).max())


def test_the_residual_bounds_the_error_when_it_ends_early():
    matrix = with_eigenvalues(np.linspace(0, 1, 200) ** 2)
    expected = np.linalg.eigvalsh(matrix)
    for iterations in (1, 3, 8, 20):
        found = search(matrix, max_iterations=iterations)
        assert found.iterations == iterations
        assert np.abs(expected - found.value).min() <= found.residual
        assert found.value <= expected[-1]
    assert found.residual < 0.05


def test_a_loose_tolerance_needs_fewer_iterations():
    matrix = with_eigenvalues(np.linspace(0, 1, 200) ** 2)
    loose, tight = search(matrix, 1e-2), search(matrix, 1e-8)
    assert loose.iterations < tight.iterations
    for found, tolerance in ((loose, 1e-2), (tight, 1e-8)):
        assert found.residual <= tolerance * found.value * (1 + 1e-5)
        earlier = search(matrix, 1e-15, found.iterations - 1)
        assert earlier.residual > tolerance * earlier.value


def test_float32():
    matrix = with_eigenvalues(np.linspace(-1, 10, 60))
    assert search(matrix, 1e-3, dtype=torch.float32).value == pytest.approx(10, rel=1e-4)


def test_products_that_are_not_finite_end_it():
    found = search(np.array([[math.nan, 0], [0, 1.0]]))
    assert math.isnan(found.value)
    assert math.isnan(found.residual)
    assert found.iterations == 1


@pytest.mark.parametrize("values", [np.linspace(-2, -1, 12), np.r_[np.zeros(11), 3.0], np.zeros(12)])
def test_it_ends_when_nothing_is_left_to_search_whatever_is_asked_for(values):
    found = search(with_eigenvalues(values), tolerance=1e-300)
    assert found.iterations <= 12
    assert found.value == pytest.approx(max(values), abs=1e-13)
