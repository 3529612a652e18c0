"""The data of a chart as tables, for readers who cannot or would not read the drawing."""

from collections.abc import Mapping, Sequence

from batchnorm.records.charts import Cells, Chart, Curve, Histogram, Mark, Panel, Points, Violin
from batchnorm.records.intervals import Interval
from batchnorm.records.tables import Table
from batchnorm.records.wording import MISSING, number, plain_interval

__all__ = ["intervals", "tables"]

MOST_ROWS = 200  # of a table


def tables(chart: Chart, words: Mapping[str, str]) -> list[Table]:
    """Return the data of a chart's marks, one table a panel.

    Args:
        chart: whose marks are written out; long ones are thinned evenly.
        words: what each arm is called.
    """
    return [_table(panel, panel.title or chart.finding, words) for panel in chart.panels if panel.marks]


def intervals(mark: Curve | Points) -> list[tuple[float | str, Interval | None]]:
    """Return x, and the number there with its interval."""
    n = len(mark.y)
    low, high = mark.low or [None] * n, mark.high or [None] * n
    return [
        (x, None if y is None else Interval(y, a, b, 0))
        for x, y, a, b in zip(mark.x, mark.y, low, high, strict=True)
    ]


def _table(panel: Panel, title: str, words: Mapping[str, str]) -> Table:
    first = panel.marks[0]
    if isinstance(first, Cells):
        rows = [[row, *map(_place, numbers)] for row, numbers in zip(first.rows, first.values, strict=True)]
        return Table(f"{title}: {first.title}", [panel.y.title, *first.columns], rows)
    if isinstance(first, Histogram):
        head = ["", f"{panel.x.title} from", "to", panel.y.title]
    else:
        head = ["", panel.x.title, panel.y.title + (" [95%]" if _has_ends(panel.marks) else "")]
    rows = [row for mark in panel.marks for row in _rows(mark, words)]
    kept = rows[:: -(-len(rows) // MOST_ROWS)] if rows else rows
    return Table(title, head, kept)


def _has_ends(marks: Sequence[Mark]) -> bool:
    return any(isinstance(mark, Curve | Points) and mark.low for mark in marks)


def _rows(mark: Mark, words: Mapping[str, str]) -> list[list[str]]:
    if isinstance(mark, Cells):
        return []
    label = mark.label or words.get(mark.arm, mark.arm)
    if isinstance(mark, Histogram):
        edges = zip(mark.edges[:-1], mark.edges[1:], mark.heights, strict=True)
        return [[label, _place(a), _place(b), _place(height)] for a, b, height in edges]
    if isinstance(mark, Violin):
        return [[label, mark.at, _spread(mark.values)]]
    return [[label, _place(x), plain_interval(interval)] for x, interval in intervals(mark)]


def _place(value: float | str | None) -> str:
    """A number as it stands at an axis: whole ones whole."""
    if isinstance(value, str) or value is None:
        return value or MISSING
    return number(value) if value % 1 else f"{value:.10g}"


def _spread(values: Sequence[float]) -> str:
    ordered = sorted(values)
    if not ordered:
        return "-"
    middle = ordered[len(ordered) // 2]
    return f"median {number(middle)}, {number(ordered[0])} to {number(ordered[-1])} (n = {len(ordered)})"
