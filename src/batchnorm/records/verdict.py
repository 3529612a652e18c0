"""What the records say of a claim: the parts of its criterion, each with what was measured, and the verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from batchnorm.records.intervals import Interval

__all__ = ["NOT_REPRODUCED", "PARTLY", "REPRODUCED", "VERDICTS", "Check", "Verdict"]

REPRODUCED, PARTLY, NOT_REPRODUCED = VERDICTS = ("reproduced", "partly", "not reproduced")


@dataclass(frozen=True)
class Check:
    """A part of a criterion.

    Args:
        text: what is asked, with its threshold: `steps to 90%: at least 5 times as many without`.
        measured: what the records say, in words: `8.5 [6.1, 11.7] (5 seeds)`.
        holds: whether they meet it.
    """

    text: str
    measured: str
    holds: bool


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim with the number it rests on. Made by `of`, so that the checks decide it.

    Args:
        verdict: `reproduced`, `partly` or `not reproduced`.
        value: the claim's main number; None where there is none, because runs diverged for instance.
        low, high: ends of its interval, in the number's own unit; None where there is no interval.
        unit: what `value` is, as it follows the number: `times the steps`.
        finding: the answer in a sentence, written from the records.
        checks: the parts of the criterion.
        contradiction: where a quantity that was published is measured, and its interval lies beyond what was said of
            it, a sentence that says so, else "".
        surprise: what else a reader should know before believing the verdict: what was not shown, on what it rests,
            or how another reading of the claim comes out; "" where there is nothing.
    """

    verdict: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    finding: str
    checks: tuple[Check, ...]
    contradiction: str = ""
    surprise: str = ""

    @classmethod
    def of(
        cls,
        checks: Sequence[Check],
        value: Interval | float | None,
        *,
        unit: str,
        finding: str,
        contradiction: str = "",
        surprise: str = "",
    ) -> Self:
        """Judge by the checks: all hold, `reproduced`; some, `partly`; none, `not reproduced`.

        Args:
            checks: the parts of the criterion, at least one.
            value: the claim's main number, with its interval where it has one.
            unit, finding, contradiction, surprise: as in the class.

        Example:
            >>> checks = [Check("at least 5", "8.5", True), Check("at least 3", "2.1", False)]
            >>> Verdict.of(checks, 8.5, unit="times", finding="It took 8.5 times the steps.").verdict
            'partly'
        """
        if not checks:
            raise ValueError("checks is empty; a verdict needs at least one part of a criterion")
        held = sum(check.holds for check in checks)
        verdict = REPRODUCED if held == len(checks) else PARTLY if held else NOT_REPRODUCED
        said = unit, finding, tuple(checks), contradiction, surprise
        if isinstance(value, Interval):
            return cls(verdict, value.mean, value.low, value.high, *said)
        return cls(verdict, value, None, None, *said)
