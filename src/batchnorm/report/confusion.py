"""Which classes an arm takes for which, on the test set."""

from typing import Any, TypeGuard

import plotly.graph_objects as go

from batchnorm.records.grouping import finite
from batchnorm.records.wording import percent, seeds
from batchnorm.report.drawing import figure, text
from batchnorm.report.figure import Figure, Note, Table
from batchnorm.report.findings import sentence
from batchnorm.report.view import Arm, View

__all__ = ["confusion", "confusion_figures"]

READABLE = 25
TOP = 40


def confusion(arm: Arm, classes: int) -> tuple[list[list[int]], int] | None:
    """Return the sum of an arm's confusion matrices at its best rate, and over how many seeds it runs."""
    total = [[0] * classes for _ in range(classes)]
    used = 0
    for run in arm.finished.values():
        rows = run.final.get("confusion")
        if not _is_square(rows, classes):
            continue
        used += 1
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                total[i][j] += int(finite(value) or 0)
    return (total, used) if used else None


def confusion_figures(view: View) -> list[Figure]:
    """Return one matrix an arm; arms whose runs all diverged have none."""
    names = view.class_names
    figures = []
    for i, arm in enumerate(view.arms):
        found = confusion(arm, len(names)) if names else None
        if found is not None:
            figures.append(_figure(f"confusion-{i}", arm, names, *found))
    return figures


def _figure(name: str, arm: Arm, names: list[str], counts: list[list[int]], used: int) -> Figure:
    caption = (
        f"{sentence(arm.phrase)} at its best learning rate, sum over {seeds(used)} of the whole test set. "
        "Rows are true classes; the colour is the share of a row, the number is the count, zeros are left out."
    )
    readable = len(names) <= READABLE
    table = _whole(arm, names, counts) if readable else _largest(arm, names, counts)
    return Figure(
        name=name,
        findings=[Note(_finding(arm, names, counts))],
        plots={"": _plot(names, counts, readable)},
        captions=[Note(caption)],
        tables=[table],
        height=max(380, min(620, 150 + 30 * len(names))),
    )


def _plot(names: list[str], counts: list[list[int]], readable: bool) -> go.Figure:
    ticks = [text(_clip(name)) for name in names]
    shares = [[value / (sum(row) or 1) for value in row] for row in counts]
    hover = [
        [
            f"{text(names[i])} taken for {text(names[j])}: {value} of {sum(row)}<br>{percent(shares[i][j])}"
            for j, value in enumerate(row)
        ]
        for i, row in enumerate(counts)
    ]
    # Numbers, not names, place the cells: two classes may have the same name.
    places = list(range(len(names)))
    step = max(1, len(names) // 25)
    axis: dict[str, Any] = {"tickvals": places[::step], "ticktext": ticks[::step], "showgrid": False}
    heat: dict[str, Any] = {"text": hover}
    if readable:
        heat = {
            "text": [[str(value) if value else "" for value in row] for row in counts],
            "texttemplate": "%{text}",
            "textfont": {"size": 13 if len(names) <= 12 else 9},
        }
    return figure(
        [
            go.Heatmap(
                x=places,
                y=places,
                z=shares,
                zmin=0,
                zmax=1,
                colorscale="Cividis",
                xgap=1,
                ygap=1,
                customdata=hover,
                hovertemplate="%{customdata}<extra></extra>",
                colorbar={
                    "title": {"text": "share<br>of row"},
                    "tickformat": ".0%",
                    "thickness": 12,
                    "len": 0.9,
                },
                **heat,
            )
        ],
        xaxis=axis | {"title": {"text": "predicted"}, "side": "bottom"},
        yaxis=axis | {"title": {"text": "true class"}, "autorange": "reversed"},
        margin={"r": 10, "t": 40},
    )


def _finding(arm: Arm, names: list[str], counts: list[list[int]]) -> str:
    wrong = [(counts[i][j], i, j) for i in range(len(names)) for j in range(len(names)) if i != j]
    total = sum(count for count, _, _ in wrong)
    if total == 0:
        return f"{arm.label}: no mistakes"
    most = max(count for count, _, _ in wrong)
    top = [(names[i], names[j]) for count, i, j in wrong if count == most]
    if len(top) > 1:
        return (
            f"{arm.label}: no pair of classes stands out among {total} mistakes (at most {most} of one kind)"
        )
    return f"{arm.label}: '{top[0][0]}' is most often taken for '{top[0][1]}' ({most} of {total} mistakes)"


def _whole(arm: Arm, names: list[str], counts: list[list[int]]) -> Table:
    rows = [[names[i], *(str(value) for value in row)] for i, row in enumerate(counts)]
    return Table(f"Confusion matrix of {arm.label}: rows are true classes", ["true class", *names], rows)


def _largest(arm: Arm, names: list[str], counts: list[list[int]]) -> Table:
    wrong = [
        (counts[i][j], i, j) for i in range(len(names)) for j in range(len(names)) if i != j and counts[i][j]
    ]
    wrong.sort(key=lambda item: (-item[0], item[1], item[2]))
    rows = [[names[i], names[j], str(count), str(sum(counts[i]))] for count, i, j in wrong[:TOP]]
    head = ["true class", "taken for", "count", "samples of the class"]
    caption = f"The {len(rows)} most frequent confusions of {arm.label}"
    return Table(caption, head, rows, text_columns=2)


def _is_square(rows: Any, size: int) -> TypeGuard[list[list[Any]]]:
    return (
        isinstance(rows, list)
        and len(rows) == size
        and all(isinstance(r, list) and len(r) == size for r in rows)
    )


def _clip(name: str) -> str:
    return name if len(name) <= 14 else name[:13] + "…"
