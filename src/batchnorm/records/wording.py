"""Numbers as a reader sees them, on the page and in the terminal alike."""

import math

from batchnorm.records.intervals import Interval

__all__ = [
    "MISSING",
    "count",
    "duration",
    "epochs",
    "few",
    "number",
    "percent",
    "percent_interval",
    "plain_interval",
    "points",
    "rate",
    "seconds_difference",
    "seeds",
    "signed",
]

MISSING = "-"
_UNITS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))


def number(value: float | None) -> str:
    """Return `value` with three significant digits.

    Example:
        >>> number(0.123456), number(1234.5), number(None)
        ('0.123', '1230', '-')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.2e}"
    digits = 2 - math.floor(math.log10(abs(float(f"{value:.2e}"))))
    return f"{round(value, digits):.{max(digits, 0)}f}"


def signed(value: float | None) -> str:
    """Return `number(value)` with its sign, also where that is a plus."""
    text = number(value)
    return f"+{text}" if value is not None and value > 0 and text != MISSING else text


def rate(value: float | None) -> str:
    """Return a learning rate as one would type it."""
    return MISSING if value is None else f"{value:g}"


def count(value: float | None) -> str:
    """Return a whole number with commas between thousands."""
    return MISSING if value is None else f"{value:,.0f}"


def seeds(n: int) -> str:
    """Return `1 seed` or `5 seeds`."""
    return f"{n} seed" if n == 1 else f"{n} seeds"


def few(interval: Interval | None, of: int) -> str:
    """Return ` (n = 2)` where an interval rests on fewer seeds than the `of` that ran, else nothing.

    Example:
        >>> few(Interval(0.012, 0.004, 0.02, 2), 5), few(Interval(0.012, 0.004, 0.02, 5), 5)
        (' (n = 2)', '')
    """
    return f" (n = {interval.n})" if interval is not None and interval.n < of else ""


def percent(value: float | None) -> str:
    """Return a fraction as per cent with one decimal."""
    return MISSING if value is None else f"{_unsigned_zero(100 * value, 1)}%"


def percent_interval(interval: Interval | None) -> str:
    """Return a mean accuracy and its interval, which is cut at 0 and 100.

    Example:
        >>> percent_interval(Interval(0.979, 0.974, 1.003, 5))
        '97.9% [97.4, 100.0]'
    """
    if interval is None:
        return MISSING
    if interval.low is None or interval.high is None:
        return percent(interval.mean)
    low, high = (_unsigned_zero(100 * min(max(end, 0.0), 1.0), 1) for end in (interval.low, interval.high))
    return f"{percent(interval.mean)} [{low}, {high}]"


def points(interval: Interval | None) -> str:
    """Return a difference of fractions in percentage points, with sign and interval.

    Example:
        >>> points(Interval(0.012, 0.004, 0.02, 5))
        '+1.2 points [0.4, 2.0]'
    """
    if interval is None:
        return MISSING
    low, high = interval.low, interval.high
    if low is None or high is None:
        return f"{_signed_fixed(100 * interval.mean, 1)} points"
    low, high, digits = 100 * low, 100 * high, 1
    # An interval that excludes zero must not be printed with a zero at its end.
    while interval.excludes_zero and digits < 3 and not (round(low, digits) and round(high, digits)):
        digits += 1
    ends = f"[{_unsigned_zero(low, digits)}, {_unsigned_zero(high, digits)}]"
    return f"{_signed_fixed(100 * interval.mean, digits)} points {ends}"


def plain_interval(interval: Interval | None, *, sign: bool = False) -> str:
    """Return a mean and its interval in their own unit, each number with three significant digits."""
    if interval is None:
        return MISSING
    write = signed if sign else number
    if interval.low is None or interval.high is None:
        return write(interval.mean)
    return f"{write(interval.mean)} [{number(interval.low)}, {number(interval.high)}]"


def epochs(interval: Interval | None, *, sign: bool = False) -> str:
    """Return a number of epochs, or with `sign` a difference of two, with at most one decimal.

    Example:
        >>> epochs(Interval(3.0, 2.2, 3.8, 5)), epochs(Interval(-6.0, -6.0, -6.0, 5), sign=True)
        ('3 [2.2, 3.8]', '-6 [-6, -6]')
    """
    if interval is None:
        return MISSING
    texts = [
        MISSING if value is None else _unsigned_zero(value, 1).removesuffix(".0")
        for value in (interval.mean, interval.low, interval.high)
    ]
    plus = "+" if sign and not texts[0].startswith("-") and texts[0] != "0" else ""
    return plus + (texts[0] if interval.low is None else f"{texts[0]} [{texts[1]}, {texts[2]}]")


def duration(seconds: float | None) -> str:
    """Return a time in the unit that gives 1 to 999, with three significant digits.

    Example:
        >>> duration(0.00157), duration(95.2), duration(7200)
        ('1.57 ms', '95.2 s', '120 min')
    """
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds == 0:
        return "0 s"
    return _in_unit(seconds, _unit(seconds))


def seconds_difference(interval: Interval | None) -> str:
    """Return a difference of times with sign and interval, in the unit that suits the largest of its numbers."""
    if interval is None:
        return MISSING
    largest = max(abs(value) for value in (interval.mean, interval.low, interval.high) if value is not None)
    name, size = _unit(largest or 1.0)
    text = signed(interval.mean / size)
    if interval.low is None or interval.high is None:
        return f"{text} {name}"
    return f"{text} {name} [{number(interval.low / size)}, {number(interval.high / size)}]"


def _unit(seconds: float) -> tuple[str, float]:
    if abs(seconds) >= 999.5 * 3600:
        return _UNITS[0]
    # A larger unit is taken only when the smaller one would need four digits.
    for name, size in reversed(_UNITS):
        if abs(seconds) < 999.5 * size:
            return name, size
    return _UNITS[0]


def _in_unit(seconds: float, unit: tuple[str, float]) -> str:
    name, size = unit
    return f"{number(seconds / size)} {name}"


def _signed_fixed(value: float, digits: int) -> str:
    text = _unsigned_zero(value, digits)
    return text if text.startswith("-") else f"+{text}"


def _unsigned_zero(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"
