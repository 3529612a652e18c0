"""Geometric means over shapes, and the shape that does worst."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from batchnorm.bench.harness import geometric_mean

__all__ = [
    "DISTURBED",
    "GROUPS",
    "PHASE_NAMES",
    "Row",
    "disturbed",
    "is_disturbed",
    "median",
    "slowest",
    "summarize",
]

# Seconds of waiting for a core in a second of measuring: quiet machines stay below 0.03, one busy neighbour gives 0.3.
DISTURBED = 0.1

Line = dict[str, Any]
PHASE_NAMES = {
    "forward_backward": "Training: forward and backward",
    "forward": "Training: forward alone",
    "evaluation": "Evaluation",
}
GROUPS = {
    "bn": "BN alone",
    "bn+act": "BN+act",
    "bn+add": "BN+add",
    "bn+add+act": "BN+add+act",
}
_LAYOUTS = ("contiguous", "channels_last")
_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Row:
    """One line of the summary: what, over how many shapes, and how fast; None where nothing was measured."""

    phase: str
    group: str
    layout: str
    dtype: str
    count: int
    torch: float
    worst: float
    worst_shape: tuple[int, ...]
    copies: float | None
    torch_compiled: float | None
    batchnorm_compiled: float | None


def median(line: Line, name: str) -> float | None:
    """The median ratio of `name` to ours in a record, or None where it was not measured."""
    found = line["ratios"].get(name)
    return None if found is None else found["median"]


def summarize(lines: Iterable[Line]) -> list[Row]:
    """Rows in the order of display: forward and backward first, float32 first."""
    lines = list(lines)
    rows = []
    for phase in PHASE_NAMES:
        for layout in _LAYOUTS:
            for dtype in _DTYPES:
                for group in GROUPS:
                    wanted = (phase, group, layout, dtype)
                    found = [
                        line
                        for line in lines
                        if (line["phase"], line["group"], line["layout"], line["dtype"]) == wanted
                    ]
                    if found:
                        rows.append(_row(wanted, found))
    return rows


def disturbed(lines: Iterable[Line]) -> int:
    """The measurements during which other processes took the cores."""
    return sum(1 for line in lines if is_disturbed(line))


def is_disturbed(line: Line) -> bool:
    """Whether other processes took the cores during this measurement."""
    return (line.get("waiting") or 0.0) > DISTURBED


def slowest(lines: Iterable[Line], count: int) -> list[Line]:
    """The records in which ours compares worst with torch's."""
    return sorted(lines, key=lambda line: _torch(line))[:count]


def _row(wanted: tuple[str, str, str, str], found: list[Line]) -> Row:
    worst = min(found, key=_torch)
    share = _mean(found, "copy")
    return Row(
        *wanted,
        count=len(found),
        torch=_mean(found, "torch") or float("nan"),
        worst=_torch(worst),
        worst_shape=tuple(worst["shape"]),
        copies=None if share is None else 1 / share,
        torch_compiled=_mean(found, "torch_compiled"),
        batchnorm_compiled=_mean(found, "batchnorm_compiled"),
    )


def _torch(line: Line) -> float:
    value: float = line["ratios"]["torch"]["median"]
    return value


def _mean(found: list[Line], name: str) -> float | None:
    return geometric_mean(value for line in found if (value := median(line, name)) is not None)
