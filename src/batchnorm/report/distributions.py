"""What goes into and comes out of each norm layer over training, with and without it."""

from dataclasses import dataclass
from statistics import fmean
from typing import Any

import plotly.graph_objects as go

from batchnorm.records.grouping import entries, finite
from batchnorm.records.intervals import mean_interval, paired_difference
from batchnorm.records.wording import number, plain_interval
from batchnorm.report.drawing import curve, end_labels, figure, label_room, whole_ticks
from batchnorm.report.figure import Control, Controls, Figure, Note, Table
from batchnorm.report.findings import sentence
from batchnorm.report.phrases import listed, seed_range
from batchnorm.report.view import Arm, View, thin

__all__ = ["Percentiles", "controls", "crowd_note", "percentile_figure", "percentiles", "sites"]

SIDES = {"input": "going into the layer", "output": "coming out of it"}
LEVELS = ("p15", "p50", "p85")


@dataclass(frozen=True)
class Percentiles:
    """Means over seeds of the three percentiles of a site's values after one epoch."""

    epoch: int
    values: dict[str, float]
    n: int


def sites(view: View) -> list[str]:
    """Return the paths of the norm layers that have records, in the order of the model."""
    known: dict[str, None] = {}
    for arm in view.arms:
        recorded = {site for site, _ in arm.activations}
        ordered = [str(site) for run in arm.finished.values() for site in entries(run.header.get("sites"))]
        known |= dict.fromkeys(site for site in [*ordered, *sorted(recorded)] if site in recorded)
    return thin(list(known), view.detail.sites)


def controls(names: list[str]) -> Controls:
    """Return the choice of a site, by its place in the list, and of a side of the layer."""
    numbered = tuple((str(i), name) for i, name in enumerate(names))
    return Controls(
        "sites", (Control("site", "Layer", numbered), Control("side", "Values", tuple(SIDES.items())))
    )


def percentile_figure(view: View, names: list[str]) -> Figure:
    """The 15th, 50th and 85th percentile over epochs, as in figure 1 of Ioffe & Szegedy (2015)."""
    plots, findings, tables = {}, [], []
    for i, site in enumerate(names):
        for side in SIDES:
            plots[f"{i}|{side}"] = _plot(view, site, side)
            findings.append(Note(_finding(view, site, side), when=f"site={i}&side={side}"))
            tables.append(_table(view, site, side, f"site={i}&side={side}"))
    count = seed_range(len(arm.finished) for arm in view.arms if arm.finished)
    caption = (
        f"15th, 50th (thick) and 85th percentile of the values, mean over seeds (n = {count} an arm), "
        f"{_measured(view)}, on a fixed batch. Where an arm has no layer, the same point of "
        "the network is shown. Brackets in the title are 95% t intervals over seeds."
    )
    return Figure(
        "percentiles",
        findings,
        plots,
        [Note(caption + view.place_note + crowd_note(view))],
        tables,
        controls(names),
        ("site", "side"),
        440,
    )


def _measured(view: View) -> str:
    """Say at which epochs values were measured, as far as the page draws them."""
    lines = [
        line
        for arm in view.arms
        for series in arm.activations.values()
        for part in series.values()
        for line in part
    ]
    known = sorted({int(epoch) for line in lines if (epoch := finite(line.get("epoch"))) is not None})
    runs = [run for arm in view.arms for run in arm.finished.values()]
    trained = {
        int(epoch) for run in runs for line in run.epochs if (epoch := finite(line.get("epoch"))) is not None
    }
    after = [epoch for epoch in thin(known, view.detail.epochs) if epoch > 0]
    start = "before training (epoch 0) and " if 0 in known else ""
    if not after:
        return "before training (epoch 0)"
    if set(after) >= trained:
        return f"{start}after each epoch"
    return f"{start}after {len(after)} of {len(trained | set(after))} epochs"


def crowd_note(view: View) -> str:
    """Say that some arms are drawn only on demand, where that is so."""
    return (
        " Click an arm in the legend to add it."
        if any(view.shown(arm) is not True for arm in view.arms)
        else ""
    )


def percentiles(arm: Arm, site: str, side: str, limit: int) -> list[Percentiles]:
    """Return what an arm's finished runs say about one side of one site, epoch by epoch."""
    epochs: dict[int, list[dict[str, float]]] = {}
    for series in _series(arm, site, side).values():
        for epoch, values in series.items():
            epochs.setdefault(epoch, []).append(values)
    return [
        Percentiles(
            epoch, {level: fmean(v[level] for v in epochs[epoch]) for level in LEVELS}, len(epochs[epoch])
        )
        for epoch in thin(sorted(epochs), limit)
    ]


def _series(arm: Arm, site: str, side: str) -> dict[int, dict[int, dict[str, float]]]:
    """Seed to epoch to percentiles."""
    found: dict[int, dict[int, dict[str, float]]] = {}
    for seed, lines in arm.activations.get((site, side), {}).items():
        series = found.setdefault(seed, {})
        for line in lines:
            epoch = finite(line.get("epoch"))
            values = {level: value for level in LEVELS if (value := finite(line.get(level))) is not None}
            if epoch is not None and len(values) == len(LEVELS):
                series[int(epoch)] = values
    return found


def _plot(view: View, site: str, side: str) -> go.Figure:
    traces: list[Any] = []
    ends: list[tuple[Arm, Any, float]] = []
    for arm in view.arms:
        points = percentiles(arm, site, side, view.detail.epochs)
        for level in LEVELS if points else ():
            middle = level == "p50"
            width = 3 if middle else 1.5
            line = {"color": arm.identity.colour, "dash": arm.identity.dash, "width": width}
            traces.append(
                curve(
                    arm,
                    [point.epoch for point in points],
                    [point.values[level] for point in points],
                    uid=f"{level}-{arm.label}",
                    mode="lines+markers" if middle else "lines",
                    showlegend=middle,
                    line=line,
                    visible=view.shown(arm),
                    hovertemplate=f"{level[1:]}th percentile, epoch %{{x}}: %{{y:.3g}}<extra></extra>",
                )
            )
        if points and view.shown(arm) is True:
            ends.append((arm, points[-1].epoch, points[-1].values["p50"]))
    values = [value for trace in traces for value in trace.y]
    low, high = min(values, default=0.0), max(values, default=1.0)
    last = max((end for _, end, _ in ends), default=0)
    pad = 0.05 * (high - low or 1.0)
    return figure(
        [*traces, *end_labels(ends, low - pad, high + pad)],
        margin={"r": label_room(ends)},
        xaxis={"title": {"text": "epochs"}, "rangemode": "tozero", "dtick": whole_ticks(last)},
        yaxis={"title": {"text": "value"}, "zeroline": True, "range": [low - pad, high + pad]},
    )


def _drifts(arm: Arm, site: str, side: str) -> dict[int, float | None]:
    """Seed to how far the median moved during training."""
    drifts: dict[int, float | None] = {}
    for seed, series in _series(arm, site, side).items():
        medians = [values["p50"] for values in series.values()]
        drifts[seed] = max(medians) - min(medians) if medians else None
    return drifts


def _finding(view: View, site: str, side: str) -> str:
    what = "goes into" if side == "input" else "comes out of"
    arms = view.site_arms
    drifts = {arm.label: _drifts(arm, site, side) for arm in arms}
    means = [(arm, mean_interval(drifts[arm.label].values())) for arm in arms]
    known = [(arm, interval) for arm, interval in means if interval is not None]
    if not known:
        return f"What {what} {site}"
    paired = len(known) == 2 and known[1][0] in view.comparable
    if paired:
        gap = paired_difference(drifts[known[1][0].label], drifts[known[0][0].label])
        if gap is not None and gap.excludes_zero and not known[1][0].summary.survivors:
            word = "less" if gap.mean < 0 else "more"
            numbers = f"by {plain_interval(known[1][1])} instead of {plain_interval(known[0][1])}"
            return sentence(
                f"with {known[1][0].phrase} the median of what {what} {site} moves {word} during training: {numbers}"
            )
    parts = [f"by {plain_interval(interval)} with {arm.phrase}" for arm, interval in known]
    tail = "; no difference shown" if paired else ""
    return f"The median of what {what} {site} moves {listed(parts)} during training{tail}"


def _table(view: View, site: str, side: str, when: str) -> Table:
    rows = []
    for arm in view.arms:
        for point in percentiles(arm, site, side, min(view.detail.epochs, 21)):
            values = [number(point.values[level]) for level in LEVELS]
            rows.append([arm.label, str(point.epoch), *values, str(point.n)])
    head = ["arm", "epoch", "15th percentile", "50th percentile", "85th percentile", "seeds"]
    return Table(f"Values {SIDES[side]}, {site}", head, rows, when=when)
