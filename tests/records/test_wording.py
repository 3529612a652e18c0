import pytest

from batchnorm.records import wording
from batchnorm.records.intervals import Interval


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.123"), (1234.5, "1230"), (999.9, "1000"), (0.00999999, "0.0100"), (0, "0"),
     (-0.5, "-0.500"), (2.5e-6, "2.50e-06"), (None, "-"), (float("nan"), "-")],
)  # fmt: skip
def test_three_significant_digits(value, text):
    assert wording.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (2e-7, "200 ns"), (0.0015, "1.50 ms"), (0.99951, "1.00 s"), (95.2, "95.2 s"), (999, "999 s"),
     (1000, "16.7 min"), (7200, "120 min"), (60000, "16.7 h"), (1e7, "116 d"), (None, "-")],
)  # fmt: skip
def test_durations_use_the_unit_that_gives_1_to_999(seconds, text):
    assert wording.duration(seconds) == text


def test_percent_has_one_decimal_and_is_cut_at_its_bounds():
    assert wording.percent(0.9785) == "97.9%"
    assert wording.percent_interval(Interval(0.99, 0.974, 1.02, 5)) == "99.0% [97.4, 100.0]"
    assert wording.percent_interval(Interval(0.99, None, None, 1)) == "99.0%"


def test_points_carry_sign_and_interval():
    assert wording.points(Interval(0.012, 0.004, 0.02, 5)) == "+1.2 points [0.4, 2.0]"
    assert wording.points(Interval(-0.012, -0.02, -0.004, 5)) == "-1.2 points [-2.0, -0.4]"
    assert wording.points(Interval(-0.00001, -0.002, 0.002, 5)) == "+0.0 points [-0.2, 0.2]"
    assert wording.points(Interval(0.01, None, None, 1)) == "+1.0 points"


def test_an_interval_without_zero_is_not_printed_with_a_zero():
    assert wording.points(Interval(0.004, 0.0002, 0.008, 5)) == "+0.40 points [0.02, 0.80]"


def test_epochs_drop_a_needless_decimal():
    assert wording.epochs(Interval(3.0, 2.25, 3.75, 5)) == "3 [2.2, 3.8]"
    assert wording.epochs(Interval(-6.0, -6.0, -6.0, 5), sign=True) == "-6 [-6, -6]"
    assert wording.epochs(Interval(0.0, -0.01, 0.01, 5), sign=True) == "0 [0, 0]"
    assert wording.epochs(Interval(2.5, None, None, 1), sign=True) == "+2.5"


def test_a_difference_of_times_has_one_unit():
    interval = Interval(-0.0012, -0.002, -0.0004, 5)
    assert wording.seconds_difference(interval) == "-1.20 ms [-2.00, -0.400]"
    wide = Interval(0.0004, -3.0, 3.0, 5)
    assert wording.seconds_difference(wide) == "+0.000400 s [-3.00, 3.00]"


def test_missing_values_never_raise():
    for write in (wording.percent, wording.percent_interval, wording.points, wording.epochs, wording.duration,
                  wording.seconds_difference, wording.number, wording.rate, wording.count,
                  wording.plain_interval, wording.signed):  # fmt: skip
        assert write(None) == "-"


def test_counts_rates_and_seeds():
    assert wording.count(61706) == "61,706"
    assert [wording.rate(value) for value in (0.1, 1.0, 1e-5)] == ["0.1", "1", "1e-05"]
    assert [wording.seeds(n) for n in (1, 5)] == ["1 seed", "5 seeds"]
