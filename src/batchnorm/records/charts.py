"""What a figure shows, without a drawing library: the page draws it with plotly, the pictures with another.

An experiment turns its records into these; how they look (colours, dashes, bands, fonts) is decided where they are
drawn.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from batchnorm.records.intervals import mean_interval
from batchnorm.records.tables import Table

__all__ = ["Axis", "Cells", "Chart", "Curve", "Histogram", "Mark", "Panel", "Points", "Violin"]

Numbers = tuple[float | None, ...]


@dataclass(frozen=True)
class Axis:
    """An axis.

    Args:
        title: what it counts, with its unit: `training time (s)`.
        log: whether it is logarithmic, as for learning rates, batch sizes and growth with depth.
        range: first and last number shown; None leaves it to the data.
        percent: whether fractions are written as per cent.
    """

    title: str
    log: bool = False
    range: tuple[float, float] | None = None
    percent: bool = False


@dataclass(frozen=True)
class Curve:
    """A line with its 95% band.

    Args:
        arm: decides colour, dash and marker; see `batchnorm.records.identity`.
        x: ascending numbers.
        y: as many; None makes a gap.
        low, high: ends of the band, as many, or empty for no band.
        label: its name; "" takes the arm's.
        hollow: hollow markers, for a second line of the same arm.
    """

    arm: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    label: str = ""
    hollow: bool = False

    @classmethod
    def over_seeds(
        cls,
        arm: str,
        columns: Mapping[float, Iterable[float | None]],
        *,
        label: str = "",
        hollow: bool = False,
    ) -> Self:
        """Make a curve of means with 95% t intervals.

        Args:
            columns: x to the numbers of the seeds there. Those that are None are left out.

        Example:
            >>> Curve.over_seeds("batch", {1: [2.0, 2.0], 2: [3.0, 5.0]}).y
            (2.0, 4.0)
        """
        x = tuple(sorted(columns))
        return cls(arm, x, *_means([columns[place] for place in x]), label, hollow)


@dataclass(frozen=True)
class Points:
    """Points with error bars, over numbers or over names; single seeds may be drawn beside their mean.

    Args:
        arm: decides colour and marker.
        x: numbers, or names in the order of display.
        y: as many; None leaves one out.
        low, high: ends of the bars, as many, or empty for none.
        label: its name; "" takes the arm's.
        hollow: hollow markers, for a second set of the same arm.
    """

    arm: str
    x: Sequence[float | str]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    label: str = ""
    hollow: bool = False

    @classmethod
    def over_seeds(
        cls,
        arm: str,
        columns: Mapping[float | str, Iterable[float | None]],
        *,
        label: str = "",
        hollow: bool = False,
    ) -> Self:
        """Make points of means with 95% t intervals, in the order of `columns`.

        Args:
            columns: x to the numbers of the seeds there. Those that are None are left out.

        Example:
            >>> Points.over_seeds("batch", {"training": [2.0, 4.0]}).y
            (3.0,)
        """
        return cls(arm, tuple(columns), *_means(list(columns.values())), label, hollow)


@dataclass(frozen=True)
class Histogram:
    """The outline of a histogram: `edges` has one number more than `heights`."""

    arm: str
    edges: Sequence[float]
    heights: Sequence[float]
    label: str = ""


@dataclass(frozen=True)
class Violin:
    """The distribution of `values` (at most some hundred: the page carries them) above the name `at`."""

    arm: str
    at: str
    values: Sequence[float]
    label: str = ""


@dataclass(frozen=True)
class Cells:
    """A heat map: `values[row][column]`, in cividis, or about zero where `diverging`."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    title: str
    diverging: bool = False


Mark = Curve | Points | Histogram | Violin | Cells


@dataclass(frozen=True)
class Panel:
    """One pair of axes and what is drawn in it; `title` is "" where a chart has one panel."""

    marks: Sequence[Mark]
    x: Axis
    y: Axis
    title: str = ""


@dataclass(frozen=True)
class Chart:
    """A figure: a finding, panels side by side, a caption, and its data as tables.

    Args:
        name: of the figure in its page, lower case with hyphens; pictures are named after it.
        finding: its title, a sentence that is true of the records: `Batch norm reaches 95% three epochs earlier`.
        caption: what was measured, the number of seeds, and what bands and bars are.
        panels: at least one.
        tables: the data; empty makes one of the marks.
        columns: how many panels stand beside each other.
        height: of a row of panels, in pixels.
    """

    name: str
    finding: str
    caption: str
    panels: Sequence[Panel]
    tables: Sequence[Table] = ()
    columns: int = 2
    height: int = 420


def _means(columns: Iterable[Iterable[float | None]]) -> tuple[Numbers, Numbers, Numbers]:
    """Means, and lower and upper ends of their intervals."""
    found = [mean_interval(numbers) for numbers in columns]
    return (
        tuple(None if each is None else each.mean for each in found),
        tuple(None if each is None else each.low for each in found),
        tuple(None if each is None else each.high for each in found),
    )
