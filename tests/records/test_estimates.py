import math

import numpy as np
import pytest
from scipy import stats

from batchnorm.records.estimates import (
    geometric_mean,
    median_interval,
    paired_ratio,
    share_interval,
    slope_interval,
)

NUMBERS = [2.0, 3.5, 8.0, 0.5, 4.0]


def test_geometric_mean_agrees_with_scipy_on_the_logarithms():
    found = geometric_mean(NUMBERS)
    logs = np.log(NUMBERS)
    low, high = stats.t.interval(0.95, 4, logs.mean(), stats.sem(logs))
    assert (found.mean, found.low, found.high) == pytest.approx(
        (stats.gmean(NUMBERS), math.exp(low), math.exp(high))
    )
    assert found.n == 5


def test_what_has_no_logarithm_is_left_out():
    assert geometric_mean([None, 0.0, -1.0, math.inf, math.nan, 4.0, 9.0]).mean == pytest.approx(6.0)
    assert geometric_mean([None, 0.0]) is None
    one = geometric_mean([7.0])
    assert one.mean == pytest.approx(7.0)
    assert (one.low, one.high, one.n) == (None, None, 1)


def test_an_interval_beyond_floats_is_infinite_and_not_an_error():
    assert geometric_mean([1e-300, 1e300]).high == math.inf


def test_paired_ratio_pairs_by_seed():
    found = paired_ratio({0: 10.0, 1: 40.0, 2: 5.0, 4: None}, {1: 10.0, 0: 5.0, 3: 1.0, 2: 0.0, 4: 2.0})
    assert found.n == 2
    assert found.mean == pytest.approx(math.sqrt(2.0 * 4.0))


def test_slope_agrees_with_the_normal_equations():
    x, y = np.arange(6.0), np.array([0.0, 2.1, 3.9, 6.2, 7.8, 10.1])
    design = np.stack([x, np.ones(6)], axis=1)
    solution, residual, *_ = np.linalg.lstsq(design, y, rcond=None)
    error = math.sqrt(residual[0] / 4 * np.linalg.inv(design.T @ design)[0, 0])
    found = slope_interval(x, y)
    assert found.mean == pytest.approx(solution[0])
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 4) * error)
    assert slope_interval([0, 1], [0, 1]) is None


def test_share_agrees_with_wilsons_formula():
    hits, n, z = 8, 10, stats.norm.ppf(0.975)
    centre = (hits + z * z / 2) / (n + z * z)
    half = z * math.sqrt(hits * (n - hits) / n + z * z / 4) / (n + z * z)
    found = share_interval(hits, n)
    assert (found.mean, found.low, found.high) == pytest.approx((0.8, centre - half, centre + half))
    assert share_interval(0, 0) is None


def test_median_is_robust_and_the_same_each_time():
    numbers = [1.0, 2.0, 2.5, 3.0, 1e9, None, math.nan]
    found = median_interval(numbers)
    assert found == median_interval(numbers)
    assert (found.mean, found.n) == (2.5, 5)
    assert 1.0 <= found.low <= 2.5 <= found.high <= 1e9
    assert (median_interval([1.0, 3.0]).mean, median_interval([1.0, 3.0]).low) == (2.0, None)
    assert median_interval([None]) is None
