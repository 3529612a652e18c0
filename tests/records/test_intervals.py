import math
import random

import pytest
from scipy import stats

from batchnorm.records.intervals import Interval, mean_interval, paired_difference


def test_agrees_with_scipy_on_random_samples():
    rng = random.Random(0)
    for n in (2, 3, 5, 30):
        values = [rng.gauss(0.9, 0.05) for _ in range(n)]
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        interval = mean_interval(values)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
        assert interval.mean == pytest.approx(sum(values) / n)
        assert interval.n == n


def test_no_values_give_none():
    assert mean_interval([]) is None
    assert mean_interval([None, math.nan, math.inf]) is None


def test_one_value_has_no_interval_and_claims_nothing():
    assert mean_interval([0.4]) == Interval(0.4, None, None, 1)
    assert not mean_interval([0.4]).excludes_zero


def test_equal_values_give_width_zero_and_not_nan():
    assert mean_interval([1 / 3] * 7) == Interval(1 / 3, 1 / 3, 1 / 3, 7)
    assert not mean_interval([0.0, 0.0]).excludes_zero


def test_within_asks_for_both_ends():
    interval = Interval(1.0, 0.9, 1.2, 3)
    assert interval.within(0.9, 1.2)
    assert not interval.within(0.91, 1.3)
    assert not interval.within(0.8, 1.19)
    assert not Interval(1.0, None, None, 1).within(0.0, 2.0)


def test_numbers_too_large_for_a_spread_have_no_interval():
    assert mean_interval([1e308, -1e308, 1e308]).low is None
    assert mean_interval([1e200, 3e200]).high > 2e200


def test_missing_values_are_left_out_of_n():
    assert mean_interval([0.1, None, 0.3, math.nan]).n == 2


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.2, False), (0.0, 0.2, False)]
)
def test_excludes_zero(low, high, expected):
    assert Interval(0.05, low, high, 3).excludes_zero is expected


def test_pairs_by_seed_and_not_by_position():
    ours = {2: 5.0, 0: 1.0, 1: 3.0, 9: 100.0}
    base = {0: 0.0, 1: 2.0, 2: 4.0, 7: -100.0}
    assert paired_difference(ours, base) == Interval(1.0, 1.0, 1.0, 3)


def test_pairing_takes_the_common_part_out():
    ours = {seed: seed * 10 + 1 + 0.01 * seed for seed in range(5)}
    base = {seed: seed * 10.0 for seed in range(5)}
    assert paired_difference(ours, base).excludes_zero
    assert not mean_interval(ours.values()).low > mean_interval(base.values()).high


def test_a_seed_without_a_number_on_either_side_is_not_compared():
    assert paired_difference({0: None, 1: 2.0, 2: 3.0}, {0: 1.0, 1: None, 2: 1.0}) == Interval(
        2.0, None, None, 1
    )
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
