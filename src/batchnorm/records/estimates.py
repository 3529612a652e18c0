"""Ratios, slopes, shares and medians with 95% intervals: what the criteria of the lab are made of."""

import math
from collections.abc import Mapping, Sequence

from batchnorm.records.intervals import LEVEL, Interval, mean_interval

__all__ = ["geometric_mean", "median_interval", "paired_ratio", "share_interval", "slope_interval"]


def geometric_mean(values: Sequence[float | None]) -> Interval | None:
    """Return the geometric mean with its 95% t interval on the logarithms.

    exp(mean(log v) +- t(0.975, n - 1) * sd(log v) / sqrt(n))

    Args:
        values: positive numbers; None, zero and what is not finite are left out, so count them before.

    Returns:
        None without a number; as `mean_interval` otherwise.

    Example:
        >>> round(geometric_mean([1.0, 10.0, 100.0]).mean, 6)
        10.0
    """
    logs = [math.log(value) if value is not None and 0 < value < math.inf else None for value in values]
    found = mean_interval(logs)
    if found is None:
        return None
    low, high = (None if end is None else _exp(end) for end in (found.low, found.high))
    return Interval(_exp(found.mean), low, high, found.n)


def paired_ratio(values: Mapping[int, float | None], baseline: Mapping[int, float | None]) -> Interval | None:
    """Return the geometric mean of `values / baseline` over the seeds that both have, with its interval.

    Args:
        values, baseline: seed to a positive number.

    Example:
        >>> round(paired_ratio({0: 8.0, 1: 18.0}, {0: 4.0, 1: 1.0}).mean, 6)
        6.0
    """
    ratios = []
    for seed in sorted(values.keys() & baseline.keys()):
        value, base = values[seed], baseline[seed]
        ratios.append(value / base if value is not None and base else None)
    return geometric_mean(ratios)


def slope_interval(x: Sequence[float], y: Sequence[float]) -> Interval | None:
    """Return the slope of the least-squares line through the points, with its 95% t interval.

    Args:
        x, y: at least three points, finite; with fewer there is no interval and None is returned.

    Example:
        >>> round(slope_interval([0, 1, 2, 3], [1.0, 3.1, 4.9, 7.0]).mean, 2)
        1.98

    Source: scipy.stats.linregress.
    """
    if len(x) < 3:
        return None
    from scipy.special import stdtrit
    from scipy.stats import linregress

    line = linregress(x, y)
    half = float(stdtrit(len(x) - 2, 0.5 + LEVEL / 2)) * float(line.stderr)
    return Interval(float(line.slope), float(line.slope) - half, float(line.slope) + half, len(x))


def share_interval(hits: int, n: int) -> Interval | None:
    """Return the share `hits / n` with its 95% Wilson interval.

    Example:
        >>> share = share_interval(8, 10)
        >>> share.mean, round(share.low, 3), round(share.high, 3)
        (0.8, 0.49, 0.943)

    Source: scipy.stats.binomtest; E. B. Wilson, JASA 22 (1927).
    """
    if n == 0:
        return None
    from scipy.stats import binomtest

    ends = binomtest(hits, n).proportion_ci(LEVEL, method="wilson")
    return Interval(hits / n, float(ends.low), float(ends.high), n)


def median_interval(values: Sequence[float | None]) -> Interval | None:
    """Return the median with its 95% bootstrap interval; the same values give the same interval.

    Args:
        values: None and what is not finite are left out.

    Returns:
        An `Interval` whose `mean` is the median; without ends below three values.

    Example:
        >>> median_interval([1.0, 2.0, 3.0, 4.0, 50.0]).mean
        3.0

    Source: scipy.stats.bootstrap, percentile method with 2000 resamples.
    """
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    if not numbers:
        return None
    import numpy as np
    from scipy.stats import bootstrap

    middle = float(np.median(numbers))
    if len(numbers) < 3:
        return Interval(middle, None, None, len(numbers))
    found = bootstrap(
        (numbers,), np.median, confidence_level=LEVEL, n_resamples=2000, method="percentile", rng=0
    ).confidence_interval
    return Interval(middle, float(found.low), float(found.high), len(numbers))


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
