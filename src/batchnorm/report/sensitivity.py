"""How much the choice of the learning rate matters to each arm; divergences are drawn, not dropped."""

import math
from typing import Any

import plotly.graph_objects as go

from batchnorm.records.wording import percent, percent_interval, plain_interval, rate, seeds
from batchnorm.report.drawing import curve, end_labels, figure, label_room, text
from batchnorm.report.figure import Cell, Figure, Note, Table
from batchnorm.report.phrases import listed
from batchnorm.report.view import Arm, View

__all__ = ["sensitivity_figure"]

NEAR = 0.05


def sensitivity_figure(view: View) -> Figure:
    """Validation accuracy after the last epoch against the learning rate."""
    return Figure(
        name="rates",
        findings=[Note(_finding(view))],
        plots={"": _plot(view)},
        captions=[Note(_caption(view))],
        tables=[_table(view)],
        height=440,
    )


def _plot(view: View) -> go.Figure:
    chance = view.chance or 0.0
    means = [r.val_accuracy.mean for arm in view.arms for r in arm.summary.rates if r.val_accuracy]
    bottom = min([chance, *means]) - 0.02
    lanes = [arm for arm in view.arms if arm.summary.diverged]
    lane = 0.05
    traces: list[Any] = []
    ends: list[tuple[Arm, Any, float]] = []
    for arm in view.arms:
        traces += _line(arm, bottom)
        known = [(r.lr, r.val_accuracy.mean) for r in arm.summary.rates if r.val_accuracy and r.lr > 0]
        ends += [(arm, *known[-1])] if known else []
    traces += end_labels(ends, bottom, 1.04)
    for i, arm in enumerate(lanes):
        traces.append(_crosses(arm, bottom - (i + 1) * lane))
    shapes = []
    if lanes:
        edge = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": bottom, "y1": bottom}
        shapes.append(edge | {"line": {"width": 1, "dash": "dot", "color": "#888888"}})
    floor = bottom - (len(lanes) + 0.7) * lane if lanes else bottom
    rates = sorted({r.lr for arm in view.arms for r in arm.summary.rates if r.lr > 0})
    ticks = [v / 10 for v in range(11) if v / 10 >= bottom]
    step = max(1, math.ceil(len(rates) / 9))
    shown = rates[::step]
    return figure(
        traces,
        margin={"r": label_room(ends)},
        xaxis={"title": {"text": "learning rate (log scale)"}, "type": "log", "tickvals": shown,
               "ticktext": [rate(value) for value in shown]},
        yaxis={"title": {"text": "validation accuracy, last epoch"}, "range": [floor, 1.04],
               "tickvals": [*ticks, *([bottom - (len(lanes) + 1) * lane / 2] if lanes else [])],
               "ticktext": [*(f"{v:.0%}" for v in ticks), *(["diverged"] if lanes else [])]},
        shapes=shapes,
    )  # fmt: skip


def _line(arm: Arm, floor: float) -> list[Any]:
    known = [(r, r.val_accuracy) for r in arm.summary.rates if r.val_accuracy is not None and r.lr > 0]
    lost = f" ({arm.summary.diverged} of {arm.summary.runs} diverged)" if arm.summary.diverged else ""
    hover = [
        f"<b>{text(arm.label)}</b>, rate {rate(r.lr)}<br>{percent_interval(accuracy)} ({seeds(accuracy.n)})"
        + (f"<br>{r.diverged} of {r.runs} diverged" if r.diverged else "")
        for r, accuracy in known
    ]
    bars = {
        "type": "data",
        "symmetric": False,
        "array": [0 if a.high is None else min(a.high, 1.0) - a.mean for _, a in known],
        "arrayminus": [0 if a.low is None else a.mean - max(a.low, floor) for _, a in known],
        "thickness": 1.25,
        "width": 4,
    }
    line = curve(
        arm,
        [r.lr for r, _ in known],
        [a.mean for _, a in known],
        name=text(arm.label + lost),
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        error_y=bars,
    )
    best = [(r, a) for r, a in known if r.lr == arm.summary.best_lr]
    ring = go.Scatter(
        x=[r.lr for r, _ in best],
        y=[a.mean for _, a in best],
        uid=f"best-{arm.label}",
        mode="markers",
        legendgroup=arm.label,
        showlegend=False,
        hoverinfo="skip",
        marker={"symbol": "circle-open", "size": 17, "color": arm.identity.colour, "line": {"width": 2}},
    )
    return [line, ring] if best else [line]


def _crosses(arm: Arm, height: float) -> go.Scatter:
    lost = [r for r in arm.summary.rates if r.diverged and r.lr > 0]
    return go.Scatter(
        x=[r.lr for r in lost],
        y=[height] * len(lost),
        uid=f"lost-{arm.label}",
        mode="markers+text",
        legendgroup=arm.label,
        showlegend=False,
        marker={"symbol": "x-thin", "size": 9, "line": {"width": 2.5, "color": arm.identity.colour}},
        text=[f"  {r.diverged}/{r.runs}" for r in lost],
        textposition="middle right",
        textfont={"size": 11},
        customdata=[
            f"<b>{text(arm.label)}</b>, rate {rate(r.lr)}<br>{r.diverged} of {r.runs} runs diverged"
            for r in lost
        ],
        hovertemplate="%{customdata}<extra></extra>",
        cliponaxis=False,
    )


def _near(arm: Arm) -> list[float]:
    known = [
        (r.lr, r.val_accuracy.mean)
        for r in arm.summary.rates
        if r.val_accuracy and not r.diverged and r.lr > 0
    ]
    best = arm.summary.best
    if best is None or best.val_accuracy is None:
        return []
    return [lr for lr, accuracy in known if accuracy >= best.val_accuracy.mean - NEAR]


def _finding(view: View) -> str:
    if all(arm.summary.diverged == arm.summary.runs for arm in view.arms):
        return "Every run diverged, at every learning rate"
    parts = []
    arms = [arm for arm in (view.baseline, view.main) if arm is not None]
    if max(len(arm.summary.rates) for arm in view.arms) == 1:
        return "Each arm ran at one learning rate: its sensitivity was not measured"
    for arm in arms:
        near, total = _near(arm), len(arm.summary.rates)
        factor = _span(arm, near) if len(near) > 1 else ""
        parts.append(f"at {len(near) or 'none'} of {total} rates with {arm.phrase}{factor}")
    return f"Accuracy stays within {NEAR * 100:.0f} points of the arm's best {listed(parts)}"


def _span(arm: Arm, near: list[float]) -> str:
    inside = [lr for lr in arm.summary.lrs if min(near) <= lr <= max(near)]
    if len(inside) > len(near):
        return " (with worse ones in between)"
    return f" (spanning a factor of {max(near) / min(near):.3g})"


def _caption(view: View) -> str:
    lost = sum(arm.summary.diverged for arm in view.arms)
    total = sum(arm.summary.runs for arm in view.arms)
    crosses = (
        f"Crosses below the dotted line: runs that diverged, {lost} of {total}; they are not in the means."
        if lost
        else f"None of the {total} runs diverged."
    )
    start = (
        f"starts at chance ({view.chance_note}), or at the lowest mean below it" if view.chance else "is cut"
    )
    return (
        "Mean over seeds of the validation accuracy after the last epoch, with 95% t intervals cut at the ends of the "
        f"axis; a ring marks the rate that an arm is judged at. The accuracy axis {start}. {crosses} The title "
        "describes the means on this grid and claims nothing between its rates."
    )


def _table(view: View) -> Table:
    rows: list[list[str | Cell]] = []
    for arm in view.arms:
        for r in arm.summary.rates:
            best = r.lr == arm.summary.best_lr
            share = percent(r.diverged / r.runs) if r.runs else "-"
            rows.append(
                [arm.label, Cell(rate(r.lr) + (" (best)" if best else ""), r.lr), str(r.runs),
                 Cell(f"{r.diverged} ({share})" if r.diverged else "0", r.diverged),
                 percent_interval(r.val_accuracy), plain_interval(r.val_loss)]
            )  # fmt: skip
    head = ["arm", "learning rate", "runs", "diverged", "validation accuracy [95%]", "validation loss [95%]"]
    return Table("Validation results by arm and learning rate", head, rows)
