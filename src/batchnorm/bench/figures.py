"""The two figures of the page: how much faster than torch, and how near to the speed of copies."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from batchnorm.bench.digest import LAYOUT_NAMES, SHORT_PHASES, quartiles, shape_words
from batchnorm.bench.harness import geometric_mean
from batchnorm.bench.results import Results
from batchnorm.bench.summary import GROUPS, median
from batchnorm.records.identity import Identity
from batchnorm.records.wording import duration, number
from batchnorm.report.drawing import figure
from batchnorm.report.figure import Control, Controls, Figure, Note, Table
from batchnorm.report.log_ticks import log_ticks

__all__ = ["LOOKS", "controls", "limit_figure", "ratio_figure"]

Line = dict[str, Any]
LOOKS = {
    "bn": Identity("#0072B2", "#3A9FDE", "solid", "square"),
    "bn+act": Identity("#D55E00", "#F27A1D", "solid", "circle"),
    "bn+add": Identity("#009E73", "#1FBF91", "solid", "triangle-up"),
    "bn+add+act": Identity("#CC79A7", "#DE97BE", "solid", "diamond"),
}
_PASSES = ("forward_backward", "forward", "evaluation")


def controls(results: Results) -> Controls:
    """The choices of a reader: the pass, and layout and dtype together."""
    forms = dict.fromkeys((line["layout"], line["dtype"]) for line in results.cases)
    passes = {line["phase"] for line in results.cases}
    return Controls(
        "speed",
        [
            Control("pass", "pass", [(name, SHORT_PHASES[name]) for name in _PASSES if name in passes]),
            Control("form", "input", [(f"{a}-{b}", f"{LAYOUT_NAMES[a]} {b}") for a, b in forms]),
        ],
    )


def ratio_figure(results: Results, chosen: Controls) -> Figure:
    """Time of torch over ours, shape by shape, with quartiles."""
    parts = _parts(results, chosen)
    most = max((len({tuple(line["shape"]) for line in lines}) for _, lines in parts.values()), default=1)
    return Figure(
        name="ratios",
        findings=[Note(_ratio_finding(lines), when) for when, lines in parts.values()],
        plots={key: _ratio_plot(lines) for key, (_, lines) in parts.items()},
        captions=[
            Note(
                "Median over interleaved rounds of torch's time over ours, both eager; bars: quartiles over rounds. "
                "Right of 1 ours is faster. Shapes from the smallest tensor to the largest."
            )
        ],
        tables=[_table(lines, when) for when, lines in parts.values()],
        controls=chosen,
        follows=[control.name for control in chosen.controls],
        height=max(280, 130 + 24 * most),
    )


def limit_figure(results: Results, chosen: Controls) -> Figure:
    """Our time in copies over the copies that must be made, against the size of what a pass moves."""
    parts = _parts(results, chosen)
    cache = results.machine.get("cache_bytes")
    return Figure(
        name="limit",
        findings=[Note(_limit_finding(lines), when) for when, lines in parts.values()],
        plots={key: _limit_plot(lines, cache) for key, (_, lines) in parts.items()},
        captions=[
            Note(
                "1 is the physical limit: the time of the copies that read and write what the pass must read and "
                "write, each into a fresh tensor. The line marks the size of the last-level cache."
            )
        ],
        tables=[],
        controls=chosen,
        follows=[control.name for control in chosen.controls],
        height=440,
    )


def _parts(results: Results, chosen: Controls) -> dict[str, tuple[str, list[Line]]]:
    """By the key of the chosen options: the rule under which they show, and the records."""
    parts: dict[str, tuple[str, list[Line]]] = {}
    passes, forms = (control.options for control in chosen.controls)
    for phase, _ in passes:
        for form, _ in forms:
            lines = [
                line
                for line in results.cases
                if line["phase"] == phase and f"{line['layout']}-{line['dtype']}" == form
            ]
            parts[f"{phase}|{form}"] = (
                f"pass={phase}&form={form}",
                sorted(lines, key=lambda line: line["bytes"]),
            )
    return parts


def _ratio_finding(lines: Sequence[Line]) -> str:
    group = next((name for name in ("bn+act", *GROUPS) if any(line["group"] == name for line in lines)), None)
    found = [_ratio(line, "torch") for line in lines if line["group"] == group]
    if group is None or not found:
        return "Nothing was measured here"
    slower = sum(1 for value in found if value < 1)
    rest = "none slower" if not slower else f"{slower} slower"
    shapes = "1 shape" if len(found) == 1 else f"{len(found)} shapes"
    return f"{GROUPS[group]}: {number(geometric_mean(found))} times as fast as torch over {shapes}, {rest}"


def _limit_finding(lines: Sequence[Line]) -> str:
    found = [1 / _ratio(line, "copy") for line in lines]
    if not found:
        return "Nothing was measured here"
    return f"Ours takes {number(min(found))} to {number(max(found))} times the copies that must be made"


def _ratio_plot(lines: Sequence[Line]) -> go.Figure:
    shapes = list(dict.fromkeys(tuple(line["shape"]) for line in lines))
    heights = {shape: index for index, shape in enumerate(reversed(shapes))}
    traces: list[Any] = [_rule(x=[1, 1], y=[-0.6, len(shapes) - 0.4])]
    ratios = [line["ratios"]["torch"] for line in lines]
    for group in GROUPS:
        found = [line for line in lines if line["group"] == group]
        if found:
            mine = [line["ratios"]["torch"] for line in found]
            traces.append(
                _marks(
                    group,
                    [item["median"] for item in mine],
                    [heights[tuple(line["shape"])] for line in found],
                    "%{text}: %{x:.3g}<extra></extra>",
                    found,
                    error_x={
                        "type": "data",
                        "symmetric": False,
                        "array": [item["high"] - item["median"] for item in mine],
                        "arrayminus": [item["median"] - item["low"] for item in mine],
                        "thickness": 1.2,
                        "width": 0,
                    },
                )
            )
    return figure(
        traces,
        xaxis={
            "title": {"text": "torch's time / ours"},
            "type": "log",
            **log_ticks([1.0, *(item[end] for item in ratios for end in ("low", "median", "high"))]),
        },
        yaxis={
            "tickvals": list(range(len(shapes))),
            "ticktext": [shape_words(shape) for shape in reversed(shapes)],
            "range": [-0.6, len(shapes) - 0.4],
        },
        margin={"b": 90},
    )


def _limit_plot(lines: Sequence[Line], cache: int | None) -> go.Figure:
    sizes = [line["working_set"] / 2**20 for line in lines]
    values = [1 / _ratio(line, "copy") for line in lines]
    traces: list[Any] = []
    if sizes:
        traces.append(_rule(x=[min(sizes), max(sizes)], y=[1, 1]))
    reach = [*sizes, cache / 2**20] if cache and values else sizes
    if cache and values:
        traces.append(_rule(x=[cache / 2**20] * 2, y=[min(1, *values), max(values)]))
    for group in GROUPS:
        found = [line for line in lines if line["group"] == group]
        if found:
            traces.append(
                _marks(
                    group,
                    [line["working_set"] / 2**20 for line in found],
                    [1 / _ratio(line, "copy") for line in found],
                    "%{text}: %{y:.3g}<extra></extra>",
                    found,
                )
            )
    return figure(
        traces,
        xaxis={"title": {"text": "tensors of the pass (MiB)"}, "type": "log", **log_ticks(reach)},
        yaxis={
            "title": {"text": "time / copies that must be made"},
            "type": "log",
            **log_ticks([1.0, *values]),
        },
        margin={"b": 100},
    )


def _marks(
    group: str, x: list[float], y: list[float], hover: str, lines: Sequence[Line], **more: Any
) -> go.Scatter:
    look = LOOKS[group]
    return go.Scatter(
        x=x,
        y=y,
        uid=f"marks-{group}",
        name=GROUPS[group],
        mode="markers",
        text=[f"{shape_words(line['shape'])} {line['variant']}" for line in lines],
        hovertemplate=hover,
        marker={"color": look.colour, "symbol": look.marker, "size": 8},
        **({name: {**value, "color": look.colour} for name, value in more.items()}),
    )


def _rule(x: list[float], y: list[float]) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        showlegend=False,
        hoverinfo="skip",
        line={"color": "#8b949e", "width": 1, "dash": "dash"},
    )


def _table(lines: Sequence[Line], when: str) -> Table:
    rows = [
        [
            f"{shape_words(line['shape'])} {line['variant']}",
            ", ".join(line["networks"]),
            duration(line["seconds"]["torch"]),
            duration(line["seconds"]["batchnorm"]),
            number(_ratio(line, "torch")),
            quartiles(line),
            duration(line["seconds"]["copy"]),
            duration(line["seconds"]["warm_copy"]),
            number(1 / _ratio(line, "copy")),
            str(line["rounds"]),
        ]
        for line in lines
    ]
    head = [
        "case", "in", "torch", "ours", "torch / ours", "quartiles", "a copy", "a warm copy", "ours / copies", "rounds",
    ]  # fmt: skip
    return Table("Medians over rounds", head, rows, text_columns=2, when=when)


def _ratio(line: Line, name: str) -> float:
    value = median(line, name)
    return float("nan") if value is None else value
