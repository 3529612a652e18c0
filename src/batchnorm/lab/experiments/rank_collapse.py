"""17. Does batch norm keep the samples of a batch apart in a very deep network?

A product of many random matrices sends every input to one line: behind a thousand linear layers the hidden values
of all samples are multiples of each other, and their stable rank is 1. With a batch norm behind each matrix the rank
does not fall to 1 but stays near a level that grows with the square root of the width. Here the rank is followed
through a thousand layers at four widths. It goes on moving about its level from layer to layer, so the level
is its mean over the second half of them. Without normalization it falls, slowly in some draws, so there the rank behind
the last layer decides, which is the published number too.

Layer norm is a second control: it fixes the size of each sample too, but does not look across samples.
"""

from collections.abc import Sequence
from math import log
from typing import Any

from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.records.charts import Axis, Chart, Curve, Panel, Points
from batchnorm.records.claim import Source
from batchnorm.records.estimates import slope_interval
from batchnorm.records.intervals import Interval, mean_interval
from batchnorm.records.selection import distinct, seed_values, select, values
from batchnorm.records.store import Line
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import number, plain_interval, seeds

__all__ = ["EXPERIMENT"]

SLOPE, TOLERANCE = 0.5, 0.1
COLLAPSED = 1.05  # what is published as 1.0
WIDTHS = (8, 16, 32, 64)
PUBLISHED = (2.35, 3.32, 4.79, 7.17)
LAYERS, TAIL, EVERY, BATCH = 1000, 500, 10, 64
ARMS = {"none": "no normalization", "batch": "batch norm", "layer": "layer norm"}


def plan(scale: Scale) -> list[Task]:
    """Every width with every norm."""
    return [
        Task.of(arm, seed, width=width, layers=LAYERS, batch=BATCH)
        for seed in range(scale.seeds)
        for width in WIDTHS
        for arm in ARMS
    ]


def run(task: Task) -> list[dict[str, Any]]:
    """The stable rank behind some layers, evenly spread over the logarithm of depth, and its mean over the last."""
    import torch

    from batchnorm.lab.models import plain_batch_norm, stack
    from batchnorm.probes import stable_rank_by_depth

    layers, width = task["layers"], task["width"]
    norm = plain_batch_norm if task.arm == "batch" else task.arm
    # A thousand matrices shrink the values by e^-65 at width 8, whose squares are no float32.
    net = stack(layers, width, norm, activation="linear").double()
    x = torch.randn(task["batch"], width, dtype=torch.float64)
    shown = sorted({min(layers, round(10 ** (step / 8))) for step in range(25)})
    tail = range(layers - min(TAIL, layers // 2) + EVERY, layers + 1, EVERY)
    at = [str(layer - 1) for layer in sorted({*shown, *tail})]
    seen = stable_rank_by_depth(net, x, at)
    rank = {int(each.path) + 1: each.output.item() for each in seen if each.output is not None}
    return [
        {
            "depths": shown,
            "ranks": [rank[layer] for layer in shown],
            "level": sum(rank[layer] for layer in tail) / len(tail),
            "last": rank[layers],
        }
    ]


def verdict(records: Sequence[Line]) -> Verdict:
    """How the level grows with the width, and whether it is 1 without batch norm."""
    slope = mean_interval(_slopes(records, "batch"))
    none = values(records, "last", arm="none")
    collapsed = None not in none and max(value for value in none if value is not None) <= COLLAPSED
    levels = [mean_interval(values(records, "level", arm="batch", width=width)) for width in WIDTHS]
    layer = mean_interval(values(records, "level", arm="layer", width=WIDTHS[-1]))
    checks = [
        Check(f"batch norm: slope of log rank over log width within {TOLERANCE:g} of {SLOPE:g}",
              plain_interval(slope),
              slope is not None and slope.within(SLOPE - TOLERANCE, SLOPE + TOLERANCE)),
        Check(f"no normalization: rank behind the last layer at most {COLLAPSED:g}",
              f"{number(_largest(none))} at most", collapsed),
    ]  # fmt: skip
    n = len(distinct(records, "seed"))
    finding = (
        f"With batch norm the stable rank stayed at {', '.join(map(_mean, levels[:-1]))} and {_mean(levels[-1])} at "
        f"widths {', '.join(map(str, WIDTHS[:-1]))} and {WIDTHS[-1]} ({seeds(n)}), which grows like the width to the "
        f"power of {plain_interval(slope)}. Without normalization it was {number(_largest(none))} at most behind the "
        f"last layer, with layer norm {plain_interval(layer)} at width {WIDTHS[-1]}."
    )
    return Verdict.of(checks, slope, unit="power of the width", finding=finding)


def _slopes(records: Sequence[Line], arm: str) -> list[float | None]:
    """The slope of each seed; None where a level is missing."""
    levels = [seed_values(records, "level", arm=arm, width=width) for width in WIDTHS]
    found = []
    for seed in levels[0]:
        logs = [log(value) for level in levels if (value := level[seed]) is not None and value > 0]
        line = slope_interval([log(width) for width in WIDTHS], logs) if len(logs) == len(WIDTHS) else None
        found.append(None if line is None else line.mean)
    return found


def _largest(found: Sequence[float | None]) -> float | None:
    return None if None in found else max(value for value in found if value is not None)


def _mean(found: Interval | None) -> str:
    return number(None if found is None else found.mean)


def figures(records: Sequence[Line]) -> list[Chart]:
    """The rank by depth, and its level by width."""
    n = len(distinct(records, "seed"))
    panels = []
    for width in WIDTHS:
        curves = []
        for arm in ARMS:
            lines = select(records, arm=arm, width=width)
            columns = {
                depth: [line["ranks"][i] for line in lines] for i, depth in enumerate(lines[0]["depths"])
            }
            curves.append(Curve.over_seeds(arm, columns))
        panels.append(
            Panel(
                curves,
                Axis("layer", log=True),
                Axis("stable rank", log=True, range=(0.8, 80.0)),
                f"width {width}",
            )
        )
    levels: dict[str, dict[float | str, list[float | None]]] = {
        arm: {width: values(records, "level", arm=arm, width=width) for width in WIDTHS} for arm in ARMS
    }
    marks = [Points.over_seeds(arm, levels[arm]) for arm in ARMS]
    marks.append(Points("published", WIDTHS, PUBLISHED, label="published, batch norm"))
    return [
        Chart(
            "by-depth",
            f"In the second half of {LAYERS} layers of width {WIDTHS[-1]} the rank is "
            + ", ".join(f"{_mean(mean_interval(levels[arm][WIDTHS[-1]]))} with {ARMS[arm]}" for arm in ARMS),
            f"Stable rank of the hidden values of {BATCH} samples behind linear layers at their first weights: mean "
            f"over {seeds(n)} with 95% t intervals.",
            panels,
            height=300,
        ),
        Chart(
            "by-width",
            f"With batch norm the rank grows like the width to the power of "
            f"{plain_interval(mean_interval(_slopes(records, 'batch')))}",
            f"Stable rank, mean over the last {TAIL} of {LAYERS} layers: mean over {seeds(n)} with 95% t intervals. "
            "Published values are the rank behind the last layer.",
            [Panel(marks, Axis("width", log=True), Axis("stable rank", log=True))],
        ),
    ]


EXPERIMENT = Experiment(
    number=17,
    name="rank-collapse",
    title="Does batch norm keep the samples of a batch apart in a very deep network?",
    claim="Without normalization the hidden values of a batch fall to rank one with depth; batch norm keeps their "
    "rank at about the square root of the width, at the first weights.",
    source=Source(
        "H. Daneshmand, J. Kohler, F. Bach, T. Hofmann, A. Lucchi, Batch Normalization Provably Avoids Rank Collapse "
        "for Randomly Initialised Deep Networks, 2020",
        "https://arxiv.org/abs/2003.01652",
    ),
    published=f"Stable rank behind {LAYERS} linear layers of width 8, 16, 32 and 64: "
    f"{', '.join(map(str, PUBLISHED))} with batch norm, from the authors' code, and 1.0 without.",
    method=f"{LAYERS} linear layers with N(0, 1 / width) weights and a norm behind each, a Gaussian batch of {BATCH}, "
    f"float64. The stable rank tr(M)^2 / ||M||_F^2 is averaged over the last {TAIL} layers, because it goes on "
    "moving; without normalization it falls, and that behind the last layer counts. No training.",
    criterion=f"The 95% interval of the slope of log rank over log width lies within {TOLERANCE:g} of {SLOPE:g} with "
    f"batch norm, and without normalization the rank behind the last layer is at most {COLLAPSED:g} at every width.",
    does_not_show="Whether a network trains better for it: the layers are linear and have not been trained. The batch "
    "norm here subtracts the mean as usual; the paper's theory leaves that out.",
    arms=ARMS,
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(10.0, 18.0),
)
