"""What the arms cost: time for a training step, and parameters."""

from statistics import median

import plotly.graph_objects as go

from batchnorm.records.grouping import finite
from batchnorm.records.wording import count, duration, few, number, seconds_difference
from batchnorm.report.drawing import figure, text
from batchnorm.report.figure import Cell, Figure, Note, Table
from batchnorm.report.findings import cost_finding
from batchnorm.report.phrases import seed_range
from batchnorm.report.view import Arm, View

__all__ = ["cost_figure", "cost_table"]


def cost_figure(view: View) -> Figure:
    """Seconds a step of each arm, one mark a seed."""
    counted = seed_range(len(arm.finished) for arm in view.arms)
    caption = (
        f"Small marks: the median time of a training step in one run; large marks: the median over runs "
        f"(n = {counted} an arm, at its best rate). Measured while the comparison ran, beside its other processes: "
        "good for ratios, not a benchmark."
    )
    return Figure(
        name="cost",
        findings=[Note(cost_finding(view))],
        plots={"": _plot(view)},
        captions=[Note(caption)],
        tables=[],
        height=max(220, 110 + 44 * len(view.arms)),
    )


def cost_table(view: View) -> Table:
    """Return the costs in numbers."""
    base = view.baseline.summary if view.baseline else None
    rows: list[list[str | Cell]] = []
    for arm in view.arms:
        mine = arm.summary
        ratio = "-"
        if base and base.seconds_per_step and mine.seconds_per_step and not arm.is_baseline:
            ratio = number(mine.seconds_per_step / base.seconds_per_step)
        times = [t for run in arm.best.values() if (t := finite(run.final.get("train_seconds"))) is not None]
        rows.append(
            [arm.label, duration(mine.seconds_per_step),
             seconds_difference(mine.step_difference) + few(mine.step_difference, len(arm.best)), ratio,
             duration(median(times) if times else None), count(mine.parameters)]
        )  # fmt: skip
    head = [
        "arm",
        "time a step",
        "difference to none [95%]",
        "ratio to none",
        "training time of a run",
        "parameters",
    ]
    return Table("Cost of each arm at its best rate (medians over seeds)", head, rows)


def _plot(view: View) -> go.Figure:
    traces = []
    for i, arm in enumerate(view.arms):
        times = _step_times(arm)
        style = {"color": arm.identity.colour, "symbol": arm.marker}
        height = len(view.arms) - 1 - i
        if not times:
            continue
        middle = median(times)
        for xs, size, opacity in ((times, 6, 0.5), ([middle], 14, 1.0)):
            traces.append(
                go.Scatter(
                    x=[1000 * value for value in xs],
                    y=[height] * len(xs),
                    uid=f"cost-{size}-{arm.label}",
                    mode="markers",
                    showlegend=False,
                    marker={**style, "size": size, "opacity": opacity},
                    hovertemplate=f"{text(arm.label).replace('%', '&#37;')}: %{{x:.3g}} ms<extra></extra>",
                )
            )
    labels = [text(arm.label) for arm in reversed(view.arms)]
    return figure(
        traces,
        xaxis={"title": {"text": "time a training step (ms)"}, "rangemode": "tozero"},
        yaxis={"tickvals": list(range(len(labels))), "ticktext": labels, "range": [-0.6, len(labels) - 0.4]},
    )


def _step_times(arm: Arm) -> list[float]:
    times = [finite(run.final.get("seconds_per_step")) for run in arm.finished.values()]
    return [value for value in times if value is not None]
