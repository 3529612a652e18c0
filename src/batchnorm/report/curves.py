"""Loss and accuracy over training, at each arm's best rate, with 95% bands over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from batchnorm.records import Run
from batchnorm.records.grouping import finite
from batchnorm.records.intervals import Interval, mean_interval
from batchnorm.records.wording import number, percent_interval, plain_interval, rate, seeds
from batchnorm.report.drawing import band, curve, end_labels, figure, label_room, text, whole_ticks
from batchnorm.report.figure import Control, Controls, Figure, Note, Table
from batchnorm.report.findings import loss_finding, speed_finding
from batchnorm.report.view import Arm, View, thin

__all__ = ["CONTROLS", "accuracy_figure", "loss_figure"]

AXES = {"epoch": "epochs", "step": "optimizer steps", "seconds": "training time (s)"}
SPLITS = {"val": "validation", "train": "training"}
CONTROLS = Controls(
    "curves",
    (
        Control("axis", "Over", (("epoch", "epochs"), ("step", "steps"), ("seconds", "seconds"))),
        Control("split", "On", tuple(SPLITS.items())),
    ),
)


@dataclass(frozen=True)
class Point:
    """One epoch of one arm: where it stands on each axis, and the means over seeds of each field."""

    places: dict[str, float | None]
    means: dict[str, Interval | None]


def accuracy_figure(view: View) -> Figure:
    """Accuracy of each arm, switchable between epochs, steps and seconds."""
    return _figure(view, "accuracy", "accuracy", speed_finding(view))


def loss_figure(view: View) -> Figure:
    """Cross entropy of each arm, switchable between epochs, steps and seconds."""
    return _figure(view, "loss", "cross entropy (nats)", loss_finding(view))


def _figure(view: View, field: str, title: str, finding: str) -> Figure:
    points = {arm.label: _points(arm.finished, view.detail.epochs) for arm in view.arms}
    plots = {
        f"{axis}|{split}": _plot(view, points, axis, f"{split}_{field}", f"{SPLITS[split]} {title}")
        for axis in AXES
        for split in SPLITS
    }
    return Figure(
        name=field,
        findings=[Note(finding)],
        plots=plots,
        captions=[Note(_caption(view, field))],
        tables=[_table(view, points, field, split) for split in SPLITS],
        controls=CONTROLS,
        follows=("axis", "split"),
    )


def _points(runs: dict[int, Run], limit: int) -> list[Point]:
    numbers = sorted({int(epoch) for run in runs.values() for line in run.epochs if (epoch := _epoch(line))})
    points = []
    for epoch in thin(numbers, limit):
        lines = [line for run in runs.values() for line in run.epochs if _epoch(line) == epoch]
        places = {axis: _mean(mean_interval(finite(line.get(axis)) for line in lines)) for axis in AXES}
        means = {
            f"{split}_{field}": mean_interval(finite(line.get(f"{split}_{field}")) for line in lines)
            for split in SPLITS
            for field in ("accuracy", "loss")
        }
        points.append(Point(places, means))
    return points


def _plot(view: View, points: dict[str, list[Point]], axis: str, field: str, title: str) -> go.Figure:
    accuracy = field.endswith("accuracy")
    show = percent_interval if accuracy else plain_interval
    bands: list[Any] = []
    lines: list[Any] = []
    ends: list[tuple[Arm, Any, float]] = []
    for arm in view.arms:
        known = [
            (place, interval, point)
            for point in points[arm.label]
            if (interval := point.means[field]) is not None and (place := point.places[axis]) is not None
        ]
        if not known:
            continue
        xs = [place for place, _, _ in known]
        ys = [interval.mean for _, interval, _ in known]
        area = band(arm, xs, [i.low for _, i, _ in known], [i.high for _, i, _ in known])
        bands += [] if area is None else [area]
        hover = [
            f"<b>{text(arm.label)}</b>, epoch {number_of(point)}<br>{show(interval)} ({seeds(interval.n)})"
            for _, interval, point in known
        ]
        lines.append(curve(arm, xs, ys, customdata=hover, hovertemplate="%{customdata}<extra></extra>"))
        ends.append((arm, xs[-1], ys[-1]))
    low, high = _range(view, [y for trace in [*bands, *lines] for y in trace.y], accuracy)
    labels = end_labels(ends, low, high)
    return figure(
        [*bands, *lines, *labels],
        margin={"r": label_room(ends)},
        xaxis={
            "title": {"text": AXES[axis]},
            "rangemode": "tozero",
            "dtick": whole_ticks(max((end for _, end, _ in ends), default=0)) if axis == "epoch" else None,
        },
        yaxis={
            "title": {"text": title},
            "range": [low, high],
            "tickformat": ".0%" if accuracy else None,
        },
    )


def number_of(point: Point) -> str:
    """Return the epoch of a point as text."""
    return f"{point.places['epoch'] or 0:.0f}"


def _range(view: View, values: Sequence[float], accuracy: bool) -> tuple[float, float]:
    if not accuracy:
        return 0.0, 1.06 * max(values, default=1.0)
    chance = view.chance or 0.0
    return max(0.0, min([chance, *values]) - 0.02), 1.02


def _caption(view: View, field: str) -> str:
    what = ""
    if field == "accuracy" and view.chance:
        what = f"The accuracy axis starts at chance ({view.chance_note}), or at the lowest value below it. "
    smoothed = field == "loss" and finite(further(view).get("label_smoothing"))
    smoothing = (
        " The training loss includes label smoothing, the validation loss does not." if smoothed else ""
    )
    found = {arm.label: rate(arm.summary.best_lr) for arm in view.arms if arm.finished}
    same = len(set(found.values())) == 1
    rates = (
        next(iter(found.values())) if same else ", ".join(f"{name}: {value}" for name, value in found.items())
    )
    n = sorted({len(arm.finished) for arm in view.arms})
    count = seeds(n[0]) if len(n) == 1 else f"{n[0] if n else 0} to {seeds(n[-1] if n else 0)}"
    bands = "95% t intervals" if n and n[-1] > 1 else "no interval, which takes two seeds"
    lost = sum(len(arm.best) - len(arm.finished) for arm in view.arms)
    note = f" {lost} diverged {'run is' if lost == 1 else 'runs are'} not in the means." if lost else ""
    return (
        f"Mean over seeds (n = {count} an arm) with {bands}, each arm at its own best learning rate"
        f" ({rates}). {what}Training numbers are averages over the epoch, while the weights were changing.{smoothing}"
        f" Seconds are training time without evaluation, averaged over seeds.{note}{_drawn(view)}"
    )


def further(view: View) -> dict[str, Any]:
    """Return the settings that `--set` gave."""
    found = view.settings.get("set")
    return found if isinstance(found, dict) else {}


def _drawn(view: View) -> str:
    runs = [run for arm in view.arms for run in arm.finished.values()]
    recorded = len({epoch for run in runs for line in run.epochs if (epoch := _epoch(line)) is not None})
    limit = view.detail.epochs
    return f" {limit} of {recorded} epochs are drawn, evenly spaced." if recorded > limit else ""


def _table(view: View, points: dict[str, list[Point]], field: str, split: str) -> Table:
    show = percent_interval if field == "accuracy" else plain_interval
    rows = []
    for arm in view.arms:
        for point in points[arm.label]:
            interval = point.means[f"{split}_{field}"]
            place = point.places
            rows.append(
                [arm.label, number_of(point), number(place["step"]), number(place["seconds"]), show(interval),
                 str(interval.n if interval else 0)]
            )  # fmt: skip
    head = ["arm", "epoch", "step", "seconds", f"{SPLITS[split]} {field} [95% interval]", "seeds"]
    return Table(f"{SPLITS[split].capitalize()} {field} by epoch", head, rows, when=f"split={split}")


def _epoch(line: dict[str, Any]) -> int | None:
    value = finite(line.get("epoch"))
    return None if value is None else int(value)


def _mean(interval: Interval | None) -> float | None:
    return None if interval is None else interval.mean
