"""Histograms of what goes into and comes out of a norm layer, at the start and at the end of training."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from batchnorm.records.grouping import finite
from batchnorm.records.wording import number
from batchnorm.report.distributions import controls, crowd_note
from batchnorm.report.drawing import figure, text
from batchnorm.report.figure import Figure, Note, Table
from batchnorm.report.view import Arm, View

__all__ = ["Histogram", "histogram_figure", "histograms"]

SIDES = ("input", "output")
TITLES = {"input": "into the layer", "output": "out of the layer"}


@dataclass(frozen=True)
class Histogram:
    """Density of one site's values in one run: `edges` has one number more than `density`."""

    epoch: int
    side: str
    edges: list[float]
    density: list[float]
    mean: float | None
    std: float | None


def histograms(arm: Arm, site: str) -> tuple[int | None, list[Histogram]]:
    """Return the first and last histograms of a site in the arm's run with the lowest seed, and that seed."""
    for seed in arm.finished:
        found = []
        for side in SIDES:
            for line in arm.activations.get((site, side), {}).get(seed, []):
                shape, epoch = _density(line.get("histogram")), finite(line.get("epoch"))
                if shape and epoch is not None:
                    mean, std = finite(line.get("mean")), finite(line.get("std"))
                    found.append(Histogram(int(epoch), side, *shape, mean, std))
        if found:
            ends = {min(h.epoch for h in found), max(h.epoch for h in found)}
            return seed, [h for h in found if h.epoch in ends]
    return None, []


def histogram_figure(view: View, names: list[str]) -> Figure:
    """Two by two: into and out of the layer, before and after training."""
    plots, findings, captions, tables = {}, [], [], []
    for i, site in enumerate(names):
        found = [(arm, *histograms(arm, site)) for arm in view.arms]
        plots[str(i)] = _plot(view, found)
        findings.append(Note(_finding(view, site), when=f"site={i}"))
        captions.append(Note(_caption(found) + view.place_note + crowd_note(view), when=f"site={i}"))
        tables.append(_table(found, site, f"site={i}"))
    return Figure("histograms", findings, plots, captions, tables, controls(names), ("site",), 600)


def _density(histogram: Any) -> tuple[list[float], list[float]] | None:
    if not isinstance(histogram, dict):
        return None
    edges = _numbers(histogram.get("edges"))
    counts = _numbers(histogram.get("counts"))
    if not counts or len(edges) != len(counts) + 1:
        return None
    total = sum(counts)
    widths = [b - a for a, b in pairwise(edges)]
    if total <= 0 or min(widths) <= 0:
        return None
    return edges, [c / total / w for c, w in zip(counts, widths, strict=True)]


def _numbers(values: Any) -> list[float]:
    """Return a list of numbers, empty where one of them is missing."""
    numbers = [finite(value) for value in values] if isinstance(values, list) else []
    known = [value for value in numbers if value is not None]
    return known if len(known) == len(numbers) else []


def _plot(view: View, found: list[tuple[Arm, int | None, list[Histogram]]]) -> go.Figure:
    epochs = sorted({h.epoch for _, _, items in found for h in items})
    ends = [epochs[0], epochs[-1]] if epochs else []
    traces: list[Any] = []
    axes: dict[str, Any] = {}
    annotations = []
    for row, side in enumerate(SIDES):
        for column, epoch in enumerate(ends):
            name = str(2 * row + column + 1) if row + column else ""
            here = [(arm, h) for arm, _, items in found for h in items if h.side == side and h.epoch == epoch]
            limit = _limit([h for arm, h in here if view.shown(arm) is True])
            axes |= _axes(name, row, column, limit)
            annotations.append(_heading(name, side, epoch, cut=limit is not None))
            traces += [_outline(arm, h, name, view.shown(arm), first=row + column == 0) for arm, h in here]
    return figure(traces, annotations=annotations, margin={"t": 64}, **axes)


def _axes(name: str, row: int, column: int, limit: float | None) -> dict[str, Any]:
    left, bottom = 0.55 * column, 0.6 * (1 - row)
    x: dict[str, Any] = {"domain": [left, left + 0.45], "anchor": f"y{name}"}
    y: dict[str, Any] = {"domain": [bottom, bottom + 0.36], "anchor": f"x{name}", "rangemode": "tozero"}
    if row == 1:
        x["title"] = {"text": "value"}
    if column == 0:
        y["title"] = {"text": "density"}
    if limit is not None:
        y["range"] = [0, limit]
    return {f"xaxis{name}": x, f"yaxis{name}": y}


def _heading(name: str, side: str, epoch: int, *, cut: bool) -> dict[str, Any]:
    moment = "before training" if epoch == 0 else f"after epoch {epoch}"
    place = {"xref": f"x{name} domain", "yref": f"y{name} domain", "x": 0, "y": 1.02}
    anchors = {
        "xanchor": "left",
        "yanchor": "bottom",
        "align": "left",
        "showarrow": False,
        "font": {"size": 12},
    }
    note = ",<br>peak cut" if cut else ""
    return {"text": f"{TITLES[side]},<br>{moment}{note}", **place, **anchors}


def _limit(found: list[Histogram]) -> float | None:
    """Return where to cut the density axis: a relu's zeros fill one bin and would flatten all others."""
    tops = [sorted(h.density)[-2:] for h in found if len(h.density) > 2]
    second = max((top[0] for top in tops), default=0.0)
    highest = max((top[1] for top in tops), default=0.0)
    return 1.4 * second if highest > 3 * second > 0 else None


def _outline(arm: Arm, h: Histogram, axis: str, shown: bool | str, *, first: bool) -> go.Scatter:
    return go.Scatter(
        x=[h.edges[0], *h.edges],
        y=[0.0, *h.density, 0.0],
        xaxis=f"x{axis}",
        yaxis=f"y{axis}",
        uid=f"hist-{axis}-{arm.label}",
        name=text(arm.label),
        legendgroup=arm.label,
        showlegend=first,
        visible=shown,
        mode="lines",
        line={"shape": "hv", "color": arm.identity.colour, "dash": arm.identity.dash, "width": 2},
        hovertemplate="from %{x:.3g}: density %{y:.3g}<extra></extra>",
    )


def _finding(view: View, site: str) -> str:
    arm = view.site_arms[-1] if view.site_arms else None
    seed, items = (None, []) if arm is None else histograms(arm, site)
    if arm is None or not items:
        return f"Histograms at {site} were not recorded"
    last = max(h.epoch for h in items)
    inside = next((h for h in items if h.epoch == last and h.side == "input"), None)
    outside = next((h for h in items if h.epoch == last and h.side == "output"), None)
    if inside is None or outside is None or None in (inside.mean, inside.std, outside.mean, outside.std):
        return f"Values at {site} with {arm.phrase} (seed {seed})"
    return (
        f"At {site}, {arm.phrase} turns mean {number(inside.mean)} and deviation {number(inside.std)} into "
        f"{number(outside.mean)} and {number(outside.std)} (epoch {last}, seed {seed})"
    )


def _caption(found: list[tuple[Arm, int | None, list[Histogram]]]) -> str:
    used = sorted({seed for _, seed, _ in found if seed is not None})
    which = f"seed {used[0]}" if len(used) == 1 else "the lowest seed that finished"
    return (
        f"Density of the values at this layer in one run an arm ({which}, n = 1) at its best learning rate, on a "
        "fixed batch. Where an arm has no layer, both rows show the same values. Means and deviations are over "
        "all channels together; a norm layer works on each channel by itself. Where a peak is cut, one bin (a "
        "relu's zeros, say) is more than three times as high as the next."
    )


def _table(found: list[tuple[Arm, int | None, list[Histogram]]], site: str, when: str) -> Table:
    rows = []
    for arm, _, items in found:
        for h in items:
            peak = max(range(len(h.density)), key=lambda i: (h.density[i], -i))
            mode = f"{number(h.edges[peak])} to {number(h.edges[peak + 1])}"
            span = f"{number(h.edges[0])} to {number(h.edges[-1])}"
            rows.append([arm.label, TITLES[h.side], str(h.epoch), number(h.mean), number(h.std), mode, span])
    head = ["arm", "side", "epoch", "mean", "standard deviation", "fullest bin", "range"]
    return Table(f"Histograms at {site} in numbers", head, rows, text_columns=2, when=when)
