"""A figure of the page as a picture that stands alone: its finding above it, a key below, colours of one theme."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import plotly.graph_objects as go

from batchnorm.report.drawing import BASE_MARGIN, text
from batchnorm.report.figure import Figure

__all__ = ["THEMES", "WIDTH", "Framed", "Theme", "framed"]

WIDTH = 880  # pixels: what a page of documentation has room for
TITLE_SIZE, TITLE_TOP, TITLE_LEFT, TITLE_GAP = 16, 14, 24, 12
TITLE_LINE = 1.3 * TITLE_SIZE  # as plotly spaces lines
TITLE_CHARACTERS = 80  # of a line; the widest of the fonts still fits
HARD_SPACE = "\u00a0"
LEGEND_LINE, LEGEND_SIDES, LEGEND_KEY, LEGEND_CHARACTER = 29, 80, 62, 7.5


@dataclass(frozen=True)
class Theme:
    """The colours around the data, those of the page."""

    ink: str
    grid: str
    line: str
    page: str


THEMES = {
    "light": Theme("#1b1f24", "#e3e7eb", "#8b949e", "#ffffff"),
    "dark": Theme("#e7eaee", "#2d333b", "#6e7781", "#1d2127"),
}


@dataclass(frozen=True)
class Framed:
    """What is exported: `spec` with plotly's `data` and `layout`, and the size in pixels."""

    spec: dict[str, Any]
    width: int
    height: int


def framed(figure: Figure, theme: str, darker: Mapping[str, str]) -> Framed:
    """Frame a figure.

    Args:
        figure: of a chart, from `chart_figure`.
        theme: `light` or `dark`.
        darker: what stands on a dark page in place of each colour, from `dark_colours`.

    Returns:
        The picture; its background is opaque, so that it can be read wherever it stands.
    """
    plot: go.Figure = figure.plots[""]
    spec = plot.to_plotly_json()
    traces = [_shaded(trace, darker) if theme == "dark" else dict(trace) for trace in spec["data"]]
    layout = {name: value for name, value in spec["layout"].items() if name != "template"}
    lines = _lines(figure.findings[0].text)
    above = round(TITLE_TOP + TITLE_LINE * len(lines) + TITLE_GAP)
    below = LEGEND_LINE * max(0, _legend_rows(traces, layout) - 1)
    only_maps = all(trace["type"] == "heatmap" for trace in traces)
    margin = layout["margin"]
    headings = max(0, margin["t"] - BASE_MARGIN["t"])  # of the panels
    layout["margin"] = margin | {"t": above + headings, "b": margin["b"] + below}
    layout["title"] = {
        "text": "<br>".join(f"<b>{text(line)}</b>" for line in lines),
        "font": {"size": TITLE_SIZE},
        "x": TITLE_LEFT / WIDTH,
        "xanchor": "left",
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "pad": {
            "t": TITLE_TOP + TITLE_LINE * (len(lines) - 1) / 2
        },  # plotly holds the middle of the lines there
    }
    return Framed(
        {"data": traces, "layout": _dressed(layout, THEMES[theme], only_maps=only_maps)},
        WIDTH,
        figure.height + above - BASE_MARGIN["t"] + below,
    )


def _lines(finding: str) -> list[str]:
    """The finding in as few lines as it takes, about equally long, with intervals in one piece."""
    whole = re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(" ", HARD_SPACE), finding)
    lines = wrap(whole, TITLE_CHARACTERS)
    for width in range(TITLE_CHARACTERS, len(whole) // max(1, len(lines)) - 1, -1):
        narrower = wrap(whole, width)
        if len(narrower) > len(lines):
            break
        lines = narrower
    return lines


def _dressed(layout: dict[str, Any], theme: Theme, *, only_maps: bool) -> dict[str, Any]:
    lines = {
        "gridcolor": theme.grid,
        **dict.fromkeys(("linecolor", "tickcolor", "zerolinecolor"), theme.line),
    }
    axes = {name: {**axis, **lines} for name, axis in layout.items() if name.startswith(("xaxis", "yaxis"))}
    font = layout["font"] | {"color": theme.ink}
    # The gaps between cells: the dark end of the scale and a dark page are too alike to tell them apart.
    ground = theme.line if only_maps and theme is THEMES["dark"] else theme.page
    return layout | axes | {"font": font, "paper_bgcolor": theme.page, "plot_bgcolor": ground}


def _shaded(value: Any, darker: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return darker.get(value, value)
    if isinstance(value, dict):
        return {name: _shaded(part, darker) for name, part in value.items()}
    return value


def _legend_rows(traces: list[dict[str, Any]], layout: Mapping[str, Any]) -> int:
    """How many rows plotly will set the legend in; it takes them from the plot unless they get room of their own."""
    if not layout.get("showlegend", True):
        return 0
    names = [
        trace["name"]
        for trace in traces
        if trace.get("showlegend", True) and trace.get("name") and trace["type"] != "heatmap"
    ]
    widest = max((LEGEND_CHARACTER * len(name) for name in names), default=0.0) + LEGEND_KEY
    columns = max(1, int((WIDTH - LEGEND_SIDES) // widest))
    return -(-len(names) // columns)
