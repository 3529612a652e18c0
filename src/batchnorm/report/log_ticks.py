"""Where a logarithmic axis is marked: at powers of ten where it is long, at plain round numbers where it is short.

Left to itself plotly writes bare digits, 2 and 5, in small type between the powers; they are read as values.
"""

import math
import sys
from collections.abc import Iterable
from typing import Any

__all__ = ["log_ticks"]

LONG = 100.0  # from its smallest number to its largest: two decades
MOST_POWERS, FEWEST = 7, 3
ROOM = 0.05  # part of its length by which an axis reaches further than its numbers at either end
TINY = sys.float_info.min
ROUNDING = 1 + 1e-9


def log_ticks(values: Iterable[float | None]) -> dict[str, Any]:
    """Return the ticks of a logarithmic axis, in plotly's terms.

    Args:
        values: what it has to show; None, zero, and what is negative or not finite are left out.

    Returns:
        `tickmode`, `tickvals` and `ticktext`; nothing without a value.

    Example:
        >>> log_ticks([0.2, 3.0])["ticktext"]
        ['0.2', '0.5', '1', '2']
        >>> log_ticks([0.02, 300.0])["ticktext"]
        ['0.01', '0.1', '1', '10', '100', '1000']
    """
    found = [value for value in values if value is not None and TINY <= value < math.inf]
    if not found:
        return {}
    low, high = min(found), max(found)
    places = _powers(low, high) if high / low >= LONG else _round(*_reach(low, high))
    plain = all(1e-3 / ROUNDING <= place <= 1e5 * ROUNDING for place in places)
    write = _plain if plain else _scientific
    return {"tickmode": "array", "tickvals": places, "ticktext": [write(place) for place in places]}


def _reach(low: float, high: float) -> tuple[float, float]:
    """How far an axis reaches that plotly draws for these numbers; a decade to either side of a single one."""
    further = (high / low) ** ROOM if high > low else 10.0
    return low / further, high * further


def _powers(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = math.ceil((last - first + 1) / MOST_POWERS)
    # Multiples of the distance, so that 1 is among them wherever the axis reaches it.
    return [_ten(power) for power in range(-(-first // every) * every, last + 1, every)]


def _round(low: float, high: float) -> list[float]:
    """At least three numbers, the roundest there are."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), range(1, 10)):
        found = [digit * _ten(power) for power in decades for digit in digits]
        within = [value for value in found if low <= value <= high]
        if len(within) >= FEWEST:
            return within
    step = _ten(math.floor(math.log10(high - low)))
    for part in (1.0, 0.5, 0.2, 0.1):
        width = part * step
        within = [index * width for index in range(math.ceil(low / width), math.floor(high / width) + 1)]
        if len(within) >= FEWEST:
            return within
    return within


def _ten(power: int) -> float:
    return float(f"1e{power}")


def _plain(value: float) -> str:
    return f"{value:.10g}"


def _scientific(value: float) -> str:
    digits, power = f"{value:.3e}".split("e")
    if int(power) in (0, 1):
        return _plain(value)
    digits = digits.rstrip("0").rstrip(".")
    raised = f"10<sup>{int(power)}</sup>".replace("-", "\N{MINUS SIGN}")
    return raised if digits == "1" else f"{digits}\N{MULTIPLICATION SIGN}{raised}"
