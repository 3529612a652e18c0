"""The charts of the lab drawn with plotly: every mark in the look of its arm, panels side by side."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from batchnorm.records.charts import Axis, Cells, Chart, Curve, Histogram, Mark, Panel, Points, Violin
from batchnorm.records.identity import Identity, looks
from batchnorm.records.wording import plain_interval
from batchnorm.report.chart_tables import intervals, tables
from batchnorm.report.colour_key import KEY_ROOM, scale_of, with_key
from batchnorm.report.drawing import BASE_MARGIN, band, curve, end_labels, faded, figure, label_room, text
from batchnorm.report.figure import Figure, Note
from batchnorm.report.log_ticks import log_ticks

__all__ = ["Look", "chart_figure", "looks_of"]

GAP = 0.1
TITLE_ROOM = 70  # pixels between rows of panels
MOST_TICKS = 8  # of an axis that is marked only where something was measured


@dataclass(frozen=True)
class Look:
    """A mark as it is drawn: its name and its arm's look."""

    label: str
    identity: Identity
    hollow: bool = False

    @property
    def marker(self) -> str:
        """Plotly's name of the marker."""
        name = self.identity.marker
        return name if not self.hollow or "open" in name else f"{name}-open"


def looks_of(arms: Iterable[str], charts: Sequence[Chart]) -> dict[str, Identity]:
    """Return the look of every arm on a page: those of the claim first, then others that its charts name."""
    marks = [mark for chart in charts for panel in chart.panels for mark in panel.marks]
    return looks([*arms, *(mark.arm for mark in marks if not isinstance(mark, Cells))])


def chart_figure(chart: Chart, identities: Mapping[str, Identity], words: Mapping[str, str]) -> Figure:
    """Draw a chart.

    Args:
        chart: what to show.
        identities: the look of each arm, from `looks_of`.
        words: what each arm is called.

    Returns:
        The figure with its finding, caption and table.
    """
    columns = min(chart.columns, len(chart.panels))
    rows = -(-len(chart.panels) // columns)
    height = rows * chart.height
    traces: list[Any] = []
    layout: dict[str, Any] = {"annotations": []}
    named: set[str] = set()
    found = {arm: Look(words.get(arm, arm), look) for arm, look in identities.items()}
    for i, panel in enumerate(chart.panels):
        name = str(i + 1) if i else ""
        place = _Place(name, *divmod(i, columns), rows, columns, height)
        layout |= place.axes(panel)
        layout["annotations"] += place.heading(panel)
        traces += _traces(panel, name, found, named, alone=len(chart.panels) == 1)
    if len(chart.panels) == 1:
        ends = _ends(chart.panels[0], found)
        labelled = _labelled(chart.panels[0], ends)
        layout["showlegend"] = not labelled
        layout["margin"] = {"r": label_room(ends)} if labelled else {}
    if any(panel.title for panel in chart.panels):
        layout["margin"] = layout.get("margin", {}) | {"t": 48}
    # Marks of several arms above the same name stand beside each other; lines would be torn from their bands by it.
    marks = [mark for panel in chart.panels for mark in panel.marks]
    layout["violinmode"] = "group"
    if all(isinstance(mark, Points) and _by_name(mark) for mark in marks):
        layout["scattermode"] = "group"
    maps = [mark for mark in marks if isinstance(mark, Cells)]
    if maps:
        scale = scale_of(maps)
        drawn = [trace for trace in traces if isinstance(trace, go.Heatmap)]
        for trace in drawn:
            trace.update(scale)
        drawn[-1].update(with_key(scale, text(maps[-1].title), height))
        height += KEY_ROOM
        layout["margin"] = layout.get("margin", {}) | {"b": BASE_MARGIN["b"] + KEY_ROOM}
    return Figure(
        chart.name,
        [Note(chart.finding)],
        {"": figure(traces, **layout)},
        [Note(chart.caption)],
        chart.tables or tables(chart, words),
        height=height,
    )


@dataclass(frozen=True)
class _Place:
    """Where a panel stands in its figure."""

    name: str
    row: int
    column: int
    rows: int
    columns: int
    height: int

    def axes(self, panel: Panel) -> dict[str, Any]:
        width = (1 - GAP * (self.columns - 1)) / self.columns
        left = self.column * (width + GAP)
        gap = TITLE_ROOM / self.height if self.rows > 1 else 0.0
        tall = (1 - gap * (self.rows - 1)) / self.rows
        bottom = 1 - self.row * (tall + gap) - tall
        x = _axis(panel.x, [left, min(left + width, 1.0)], f"y{self.name}")
        y = _axis(panel.y, [max(bottom, 0.0), min(bottom + tall, 1.0)], f"x{self.name}")
        if any(_by_name(mark) for mark in panel.marks):
            x["type"] = "category"  # else names such as 0.1 would be taken for numbers
        if all(isinstance(mark, Points) and _by_name(mark) for mark in panel.marks) and "range" not in y:
            y |= _reach(panel)
        if panel.x.log:
            x |= log_ticks(_shown(panel, "x")) | _measured_ticks(panel)
        if panel.y.log:
            y |= log_ticks(_shown(panel, "y"))
        if any(isinstance(mark, Cells) for mark in panel.marks):
            y |= {"type": "category", "autorange": "reversed", "showticklabels": self.column == 0}
            x |= {"showticklabels": self.row == self.rows - 1}
            x, y = ({**axis, "showgrid": False} for axis in (x, y))
        if self.row < self.rows - 1:
            x.pop("title")
        if self.column > 0 and not y.get("showticklabels", True):
            y.pop("title")
        return {f"xaxis{self.name}": x, f"yaxis{self.name}": y}

    def heading(self, panel: Panel) -> list[dict[str, Any]]:
        if not panel.title:
            return []
        place = {"xref": f"x{self.name} domain", "yref": f"y{self.name} domain", "x": 0, "y": 1.02}
        look = {"xanchor": "left", "yanchor": "bottom", "showarrow": False, "font": {"size": 12}}
        return [{"text": text(panel.title), **place, **look}]


def _axis(axis: Axis, domain: list[float], anchor: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"title": {"text": text(axis.title)}, "domain": domain, "anchor": anchor}
    if axis.log:
        spec["type"] = "log"
    if axis.range is not None:
        spec["range"] = [math.log10(end) for end in axis.range] if axis.log else list(axis.range)
    if axis.percent:
        spec["tickformat"] = ".0%"
    return spec


def _reach(panel: Panel) -> dict[str, Any]:
    """The range of points above names: plotly's own begins at zero for them, and cuts markers there in half."""
    marks = [mark for mark in panel.marks if isinstance(mark, Points)]
    found = [value for mark in marks for value in (*mark.y, *mark.low, *mark.high) if value is not None]
    if panel.y.log or not found:
        return {}
    room = 0.06 * (max(found) - min(found)) or 0.06 * abs(max(found)) or 1.0
    return {"range": [min(found) - room, max(found) + room]}


def _shown(panel: Panel, name: str) -> Iterator[float | None]:
    """The numbers that an axis has to show: the ends of its range where that is given."""
    given = panel.x.range if name == "x" else panel.y.range
    if given is not None:
        yield from given
        return
    for mark in panel.marks:
        if isinstance(mark, Curve | Points):
            yield from (x for x in mark.x if isinstance(x, int | float)) if name == "x" else ()
            yield from () if name == "x" else (*mark.y, *mark.low, *mark.high)
        elif isinstance(mark, Histogram):
            yield from mark.edges if name == "x" else mark.heights
        elif isinstance(mark, Violin):
            yield from () if name == "x" else mark.values


def _measured_ticks(panel: Panel) -> dict[str, Any]:
    """Ticks where something was measured, such as batch sizes, in place of round numbers."""
    marks = [mark for mark in panel.marks if isinstance(mark, Curve | Points)]
    places = sorted({x for mark in marks for x in mark.x if isinstance(x, int | float)})
    if not 2 <= len(places) <= MOST_TICKS:
        return {}
    return {"tickmode": "array", "tickvals": places, "ticktext": [f"{place:.4g}" for place in places]}


def _look(mark: Curve | Points | Histogram | Violin, found: Mapping[str, Look]) -> Look:
    arm = found[mark.arm]
    return Look(mark.label or arm.label, arm.identity, isinstance(mark, Curve | Points) and mark.hollow)


def _traces(panel: Panel, name: str, found: Mapping[str, Look], named: set[str], *, alone: bool) -> list[Any]:
    axes = {"xaxis": f"x{name}", "yaxis": f"y{name}"}
    bands: list[Any] = []
    lines: list[Any] = []
    for i, mark in enumerate(panel.marks):
        uid = f"{name or '1'}-{i}"
        if isinstance(mark, Cells):
            lines.append(_cells(mark, axes, uid))
            continue
        look = _look(mark, found)
        first = {"showlegend": look.label not in named, "uid": uid}
        named.add(look.label)
        if isinstance(mark, Curve):
            area = band(look, mark.x, mark.low, mark.high) if mark.low else None
            bands += [] if area is None else [area.update(uid=f"band-{uid}", **axes)]
            lines.append(_curve(mark, look, axes | first))
        elif isinstance(mark, Points):
            lines.append(_points(mark, look, axes | first))
        elif isinstance(mark, Histogram):
            lines.append(_outline(mark, look, axes | first))
        else:
            lines.append(_violin(mark, look, axes | first))
    if not alone:
        return [*bands, *lines]
    ends = _ends(panel, found)
    heights = [y for trace in lines if isinstance(trace, go.Scatter) for y in trace.y if y is not None]
    if panel.y.log or not _labelled(panel, ends) or not heights:
        return [*bands, *lines]
    low, high = panel.y.range or (min(heights), max(heights))
    return [*bands, *lines, *end_labels(ends, low, high)]


def _ends(panel: Panel, found: Mapping[str, Look]) -> list[tuple[Look, Any, float]]:
    ends = []
    for mark in panel.marks:
        known = (
            [(x, y) for x, y in zip(mark.x, mark.y, strict=True) if y is not None]
            if isinstance(mark, Curve)
            else []
        )
        if known and isinstance(mark, Curve):
            ends.append((_look(mark, found), *known[-1]))
    return ends


def _labelled(panel: Panel, ends: Sequence[Any]) -> bool:
    """Whether lines are named at their ends instead of in a legend: four or fewer, all of them lines."""
    return not panel.y.log and not panel.x.log and 0 < len(ends) <= 4 and len(ends) == len(panel.marks)


def _curve(mark: Curve, look: Look, more: dict[str, Any]) -> go.Scatter:
    mode = "lines+markers" if len(mark.x) <= 40 else "lines"
    return curve(look, mark.x, mark.y, mode=mode, customdata=_words(mark), hovertemplate=_hover(look), **more)


def _points(mark: Points, look: Look, more: dict[str, Any]) -> go.Scatter:
    bars = _bars(mark)
    options: dict[str, Any] = {
        "mode": "markers",
        "line": None,
        "customdata": _words(mark),
        "hovertemplate": _hover(look),
    }
    marker = {"color": look.identity.colour, "symbol": look.marker, "size": 9}
    if _by_name(mark):
        options["offsetgroup"] = look.label
    return curve(look, mark.x, mark.y, **options, marker=marker, error_y=bars, **more)


def _by_name(mark: Mark) -> bool:
    """Whether a mark stands above names instead of numbers."""
    if isinstance(mark, Points):
        return any(isinstance(x, str) for x in mark.x)
    return isinstance(mark, Cells | Violin)


def _bars(mark: Points) -> dict[str, Any] | None:
    if not mark.low:
        return None
    above = [_gap(high, y) for high, y in zip(mark.high, mark.y, strict=True)]
    below = [_gap(y, low) for low, y in zip(mark.low, mark.y, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "thickness": 1.5,
        "width": 4,
    }


def _gap(upper: float | None, lower: float | None) -> float:
    return 0.0 if upper is None or lower is None else upper - lower


def _hover(look: Look) -> str:
    return f"<b>{text(look.label)}</b> at %{{x}}<br>%{{customdata}}<extra></extra>"


def _words(mark: Curve | Points) -> list[str]:
    return [plain_interval(interval) for _, interval in intervals(mark)]


def _outline(mark: Histogram, look: Look, more: dict[str, Any]) -> go.Scatter:
    return go.Scatter(
        x=[mark.edges[0], *mark.edges],
        y=[0.0, *mark.heights, 0.0],
        name=text(look.label),
        legendgroup=look.label,
        mode="lines",
        fill="tozeroy",
        fillcolor=faded(look.identity.colour),
        line={"shape": "hv", "color": look.identity.colour, "dash": look.identity.dash, "width": 2},
        hovertemplate="from %{x:.3g}: %{y:.3g}<extra></extra>",
        **more,
    )


def _violin(mark: Violin, look: Look, more: dict[str, Any]) -> go.Violin:
    return go.Violin(
        x=[mark.at] * len(mark.values),
        y=list(mark.values),
        name=text(look.label),
        legendgroup=look.label,
        offsetgroup=look.label,
        line={"color": look.identity.colour, "width": 1.5},
        fillcolor=faded(look.identity.colour),
        points=False,
        meanline={"visible": True},
        spanmode="hard",
        **more,
    )


def _cells(mark: Cells, axes: dict[str, Any], uid: str) -> go.Heatmap:
    return go.Heatmap(
        x=list(mark.columns),
        y=list(mark.rows),
        z=[list(row) for row in mark.values],
        uid=uid,
        xgap=1,
        ygap=1,
        showscale=False,
        hovertemplate=f"%{{y}}, %{{x}}<br>{text(mark.title)}: %{{z:.3g}}<extra></extra>",
        **axes,
    )
