import math

import pytest

from batchnorm.report.log_ticks import log_ticks


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.02, 300.0], ["0.01", "0.1", "1", "10", "100", "1000"]),
        ([1.0, 100.0], ["1", "10", "100"]),  # two decades
        ([1.0, 99.0], ["1", "2", "5", "10", "20", "50", "100"]),  # just below
        ([0.2, 3.0], ["0.2", "0.5", "1", "2"]),
        ([0.7, 1.6], ["0.7", "0.8", "0.9", "1"]),
        ([98.0, 101.0], ["98", "99", "100", "101"]),
        (
            [1e-7, 1e9],
            [f"10<sup>{power}</sup>".replace("-", "\N{MINUS SIGN}") for power in (-6, -3, 0, 3, 6, 9)],
        ),
        ([2e-5, 1e-4], ["2×10<sup>−5</sup>", "5×10<sup>−5</sup>", "10<sup>−4</sup>"]),
        ([5.0], ["0.5", "1", "2", "5", "10", "20", "50"]),
        ([None, 0.0, -1.0, math.inf, math.nan, 1e3, 1e5], ["1000", "10000", "100000"]),
    ],
)
def test_powers_of_ten_where_the_axis_is_long_and_plain_numbers_where_it_is_short(values, text):
    found = log_ticks(values)
    expected = ["1" if each == "10<sup>0</sup>" else each for each in text]
    assert found["ticktext"] == expected
    assert len(found["tickvals"]) == len(expected)


@pytest.mark.parametrize("low", [1e-300, 3e-9, 0.04, 1.0, 7.7, 2e12])
@pytest.mark.parametrize("ratio", [1.0, 1.001, 1.3, 2.0, 9.0, 60.0, 100.0, 1e4, 1e30])
def test_every_axis_has_from_two_to_ten_ascending_ticks_that_say_what_they_are(low, ratio):
    high = low * ratio
    found = log_ticks([low, high])
    shown = [place for place in found["tickvals"] if low / 10 <= place <= high * 10]
    assert 2 <= len(shown) <= 10
    assert found["tickvals"] == sorted(found["tickvals"])
    for place, text in zip(found["tickvals"], found["ticktext"], strict=True):
        plain = text.replace("</sup>", "").replace("−", "-")
        digits, _, power = plain.rpartition("10<sup>") if "<sup>" in plain else (plain, "", "0")
        said = float(digits.rstrip("×") or 1) * 10.0 ** int(power)
        assert said == pytest.approx(place, rel=1e-3)


def test_without_a_number_plotly_decides():
    assert log_ticks([None, 0.0]) == {}
