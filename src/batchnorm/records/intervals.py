"""Means with 95% t intervals over seeds, alone and as paired differences."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["LEVEL", "Interval", "mean_interval", "paired_difference"]

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over `n` values, and the ends of its 95% t interval (None where `n` < 2)."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval; False where there is no interval."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def within(self, low: float, high: float) -> bool:
        """Whether the whole interval lies from `low` to `high`; False where there is no interval.

        Example:
            >>> (
            ...     Interval(1.01, 0.98, 1.04, 5).within(0.95, 1.05),
            ...     Interval(1.0, 0.9, 1.1, 3).within(0.95, 1.05),
            ... )
            (True, False)
        """
        return self.low is not None and self.high is not None and low <= self.low and self.high <= high


def mean_interval(values: Iterable[float | None]) -> Interval | None:
    """Return the mean of `values` with its 95% t interval.

    mean +- t(0.975, n - 1) * sqrt(sum((v - mean)^2) / (n - 1)) / sqrt(n)

    Args:
        values: one number a seed; None and non-finite ones are left out.

    Returns:
        None without a number. With one number an interval without ends; values that all agree give
        an interval of width zero.

    Example:
        >>> mean_interval([0.96, 0.97, 0.98]).n
        3

    Source: Student, "The probable error of a mean", Biometrika 6 (1908).
    """
    numbers = [float(value) for value in values if value is not None and math.isfinite(value)]
    n = len(numbers)
    if n == 0:
        return None
    # One value n times: summing rounds, and a width of 1e-17 around 1/3 would count as an effect.
    if min(numbers) == max(numbers):
        end = numbers[0] if n > 1 else None
        return Interval(numbers[0], end, end, n)
    mean = math.fsum(number / n for number in numbers)
    from scipy.special import stdtrit  # late: the command line must start without the extra `lab`

    deviation = math.hypot(*(number - mean for number in numbers)) / math.sqrt(n - 1)
    half = float(stdtrit(n - 1, 0.5 + LEVEL / 2)) * deviation / math.sqrt(n)
    # The losses of a run that is about to diverge can be finite while their spread is not.
    if not (math.isfinite(mean - half) and math.isfinite(mean + half)):
        return Interval(mean, None, None, n)
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(
    values: Mapping[int, float | None], baseline: Mapping[int, float | None]
) -> Interval | None:
    """Return the mean of `values - baseline` over the seeds that both have, with its 95% t interval.

    Args:
        values, baseline: seed to number; seeds that one of them lacks, or has as None, are left out.

    Returns:
        As `mean_interval`.

    Example:
        >>> paired_difference({0: 3.0, 1: 4.0}, {0: 9.0, 1: 10.0, 2: 8.0})
        Interval(mean=-6.0, low=-6.0, high=-6.0, n=2)
    """
    differences = []
    for seed in sorted(values.keys() & baseline.keys()):
        value, base = values[seed], baseline[seed]
        if value is not None and base is not None:
            differences.append(value - base)
    return mean_interval(differences)
