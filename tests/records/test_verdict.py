import itertools

import pytest

from batchnorm.records.intervals import Interval
from batchnorm.records.verdict import Check, Verdict


@pytest.mark.parametrize("held", list(itertools.product([True, False], repeat=3)))
def test_the_checks_alone_decide(held):
    checks = [Check("part", "measured", each) for each in held]
    expected = "reproduced" if all(held) else "partly" if any(held) else "not reproduced"
    assert Verdict.of(checks, 1.0, unit="x", finding="y").verdict == expected


def test_value_and_interval_are_those_of_the_number():
    check = [Check("part", "measured", True)]
    found = Verdict.of(check, Interval(2.0, 1.0, 3.0, 5), unit="x", finding="y")
    assert (found.value, found.low, found.high) == (2.0, 1.0, 3.0)
    assert [Verdict.of(check, value, unit="x", finding="y").value for value in (4.0, None)] == [4.0, None]


def test_a_verdict_without_checks_is_refused():
    with pytest.raises(ValueError, match="checks is empty"):
        Verdict.of([], 1.0, unit="x", finding="y")
