"""How lines, bands and axes look, in plotly's terms; colours of text and grid belong to the page's script."""

from collections.abc import Sequence
from html import escape
from typing import Any, Protocol

import plotly.graph_objects as go

from batchnorm.records.identity import Identity

__all__ = [
    "BAND_OPACITY",
    "BASE_MARGIN",
    "Drawn",
    "band",
    "curve",
    "dark_colours",
    "end_labels",
    "faded",
    "figure",
    "label_room",
    "spread",
    "text",
    "whole_ticks",
]

BAND_OPACITY = 0.18
DARK_BAND_OPACITY = 0.3
BASE_MARGIN = {"l": 64, "r": 24, "t": 36, "b": 56}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


class Drawn(Protocol):
    """What is drawn in the look of an arm."""

    @property
    def label(self) -> str:
        """The name in legends and at the ends of lines."""

    @property
    def identity(self) -> Identity:
        """Colour and dash."""

    @property
    def marker(self) -> str:
        """Plotly's name of the marker."""


def text(value: str) -> str:
    """Return text that plotly shows as it is, not as its subset of HTML."""
    return escape(value, quote=False)


def faded(colour: str, opacity: float = BAND_OPACITY) -> str:
    """Return `#rrggbb` with an opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def dark_colours(arms: Sequence[Drawn]) -> dict[str, str]:
    """Return what stands on a dark page in place of each colour of lines and bands."""
    colours: dict[str, str] = {}
    for arm in arms:
        light, dark = arm.identity.colour, arm.identity.dark
        colours |= {light: dark, faded(light): faded(dark, DARK_BAND_OPACITY)}
    return colours


def figure(traces: Sequence[Any], **layout: Any) -> go.Figure:
    """Return a plotly figure in the look of the page; `layout` adds to it or overrides it."""
    base: dict[str, Any] = {
        "template": "none",
        "font": {"family": FONT, "size": 13},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": BASE_MARGIN,
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "itemwidth": 40,
        },
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "namelength": -1},
        "uirevision": "same",
        "dragmode": "zoom",
    }
    for key, value in layout.items():
        base[key] = {**base[key], **value} if isinstance(base.get(key), dict) else value
    for key in [key for key in base if key.startswith(("xaxis", "yaxis"))]:
        base[key] = {"zeroline": False, "ticks": "outside", "ticklen": 4, "automargin": True} | base[key]
        if "title" in base[key]:
            base[key]["title"] = {"standoff": 10} | base[key]["title"]
    return go.Figure(data=list(traces), layout=base)


def curve(arm: Drawn, x: Sequence[Any], y: Sequence[float | None], **options: Any) -> go.Scatter:
    """Return the line of an arm in its colour, dash and marker."""
    settings: dict[str, Any] = {
        "name": text(arm.label),
        "legendgroup": arm.label,
        "uid": f"line-{arm.label}",
        "mode": "lines+markers",
        "line": {"color": arm.identity.colour, "dash": arm.identity.dash, "width": 2.25},
        "marker": {"color": arm.identity.colour, "symbol": arm.marker, "size": 7},
    }
    return go.Scatter(x=list(x), y=list(y), **(settings | options))


def band(
    arm: Drawn, x: Sequence[Any], low: Sequence[float | None], high: Sequence[float | None]
) -> go.Scatter | None:
    """Return the 95% band around a line, or None where no point has an interval."""
    known = [(a, b, c) for a, b, c in zip(x, low, high, strict=True) if b is not None and c is not None]
    if not known:
        return None
    xs = [a for a, _, _ in known]
    return go.Scatter(
        x=xs + xs[::-1],
        y=[c for _, _, c in known] + [b for _, b, _ in known][::-1],
        uid=f"band-{arm.label}",
        name=text(arm.label),
        legendgroup=arm.label,
        showlegend=False,
        mode="lines",
        fill="toself",
        line={"width": 0, "color": faded(arm.identity.colour)},
        fillcolor=faded(arm.identity.colour),
        hoverinfo="skip",
    )


def end_labels(ends: Sequence[tuple[Drawn, Any, float]], low: float, high: float) -> list[go.Scatter]:
    """Return the names of up to four lines at their ends, moved apart where they would overlap."""
    if len(ends) > 4:
        return []
    heights = spread([y for _, _, y in ends], 0.065 * (high - low), low, high)
    return [
        go.Scatter(
            x=[x],
            y=[height],
            uid=f"end-{arm.label}",
            legendgroup=arm.label,
            showlegend=False,
            mode="text",
            text=["  " + text(arm.label)],
            textposition="middle right",
            cliponaxis=False,
            hoverinfo="skip",
        )
        for (arm, x, _), height in zip(ends, heights, strict=True)
    ]


def label_room(ends: Sequence[tuple[Drawn, Any, float]]) -> int:
    """Return how many pixels the names at the ends of lines need on the right."""
    longest = max((len(arm.label) for arm, _, _ in ends), default=0) if len(ends) <= 4 else 0
    return min(24 + 8 * longest, 140)


def whole_ticks(last: float) -> int | None:
    """Return a step of one where plotly would put ticks between whole numbers."""
    return 1 if last <= 12 else None


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move numbers apart until neighbours are `gap` from one another, keeping their order and the bounds."""
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    placed = [0.0] * len(values)
    floor = low
    for i in order:
        placed[i] = floor = max(values[i], floor)
        floor += gap
    ceiling = high
    for i in reversed(order):
        placed[i] = ceiling = min(placed[i], ceiling)
        ceiling -= gap
    return placed
