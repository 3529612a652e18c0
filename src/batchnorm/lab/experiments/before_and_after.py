"""10. What does batch norm do to the distribution of a batch?

Godoy's chapter 7 draws 64 points with two features before and after a batch norm layer: two histograms far from
the origin and unequally wide, then one on top of the other, with mean 0 and standard deviation 1. Here the layer
is `batchnorm.BatchNorm1d`, each seed draws a batch of its own, and the picture is the first seed's.

What "standard deviation 1" hides: the layer divides by sqrt(var + eps), so that the variance of what comes out is
var / (var + eps), and it uses the biased variance, so that the unbiased one of 64 points comes out as 64/63.
"""

from collections.abc import Sequence
from typing import Any

from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.records.charts import Axis, Chart, Histogram, Panel
from batchnorm.records.claim import Source
from batchnorm.records.intervals import mean_interval
from batchnorm.records.selection import select, values
from batchnorm.records.store import Line
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import number, seeds

__all__ = ["EXPERIMENT"]

TOLERANCE = 1e-6
POINTS, BINS, REACH = 64, 14, 3.0  # numpy.linspace(-3, 3, 15) has 14 bins


def plan(scale: Scale) -> list[Task]:
    """A batch a seed."""
    return [Task.of("batch", seed, points=POINTS) for seed in range(scale.seeds)]


def run(task: Task) -> list[dict[str, Any]]:
    """Normalise one batch; a record for each feature, before and after."""
    import numpy as np
    import torch

    from batchnorm import BatchNorm1d

    points = torch.randn(task["points"], 2) + 2 * torch.rand(task["points"], 2)  # as the chapter draws them
    layer = BatchNorm1d(2, affine=False)
    with torch.no_grad():
        normalized = layer(points).double().numpy()
    edges = np.linspace(-REACH, REACH, BINS + 1)
    records = []
    for feature in (0, 1):
        before, after = points.double().numpy()[:, feature], normalized[:, feature]
        records.append(
            {
                "feature": feature,
                "mean_before": before.mean(),
                "var_before": before.var(),
                "mean_after": after.mean(),
                "var_after": after.var(),
                "var_expected": before.var() / (before.var() + layer.eps),
                "edges": edges.tolist(),
                "before": np.histogram(before, edges)[0].tolist(),
                "after": np.histogram(after, edges)[0].tolist(),
            }
        )
    return records


def verdict(records: Sequence[Line]) -> Verdict:
    """Mean and variance of what comes out, at the worst of all features and seeds."""
    means = [abs(value) for value in values(records, "mean_after") if value is not None]
    gaps = [
        abs(line["var_after"] - line["var_expected"]) for line in records if line["var_after"] is not None
    ]
    whole = len(means) == len(gaps) == len(records) > 0  # a number that is not finite meets no bound
    checks = [
        Check(f"mean of the output: 0 to {TOLERANCE:g}", f"at most {number(max(means, default=None))} away",
              whole and max(means) <= TOLERANCE),
        Check(f"biased variance of the output: var / (var + eps) to {TOLERANCE:g}",
              f"at most {number(max(gaps, default=None))} away", whole and max(gaps) <= TOLERANCE),
    ]  # fmt: skip
    spread = [values(records, "mean_before"), values(records, "var_before")]
    before = [[value for value in each if value is not None] for each in spread]
    finding = (
        f"{len(records)} columns of {POINTS} values with means from {number(min(before[0]))} to "
        f"{number(max(before[0]))} and variances from {number(min(before[1]))} to {number(max(before[1]))} left the "
        f"layer with means within {number(max(means))} of 0 and variances within {number(max(gaps))} of "
        "var / (var + eps)."
        if whole
        else "A column left the layer with a mean or variance that is not finite."
    )
    return Verdict.of(
        checks, mean_interval(values(records, "var_after")), unit="variance after", finding=finding
    )


def figures(records: Sequence[Line]) -> list[Chart]:
    """The two histograms before, then after, as in the chapter."""
    first = select(records, seed=0)
    highest = max(count for line in first for count in [*line["before"], *line["after"]])
    count = Axis("points", range=(0.0, 1.1 * highest))
    panels = [
        Panel([_outline(line, side)], Axis("value"), count, title=f"feature {line['feature']}, {side}")
        for side in ("before", "after")
        for line in first
    ]
    after = [line["var_after"] for line in first]
    return [
        Chart(
            "histograms",
            f"Two features of unequal place and width come out with mean 0 and variance {number(min(after))}",
            f"One batch of {POINTS} points (seed 0 of {seeds(len(records) // 2)}), {BINS} bins from {-REACH:g} to "
            f"{REACH:g}; points beyond are not drawn. Above before, below after the layer.",
            panels,
            height=300,
        )
    ]


def _outline(line: Line, side: str) -> Histogram:
    return Histogram("none" if side == "before" else "batch", line["edges"], line[side], label=side)


EXPERIMENT = Experiment(
    number=10,
    name="before-and-after",
    title="What does batch norm do to the distribution of a batch?",
    claim="Batch norm turns each feature of a batch into one with mean 0 and standard deviation 1.",
    source=Source(
        "D. V. Godoy, Deep Learning with PyTorch Step-by-Step, chapter 7",
        "https://github.com/dvgodoy/PyTorchStepByStep/blob/master/Chapter07.ipynb",
    ),
    published="Two histograms of 64 points, apart before the layer and on top of each other after it, mean 0, std 1.",
    method=f"BatchNorm1d(2, affine=False) in training mode on {POINTS} points with two features, drawn as in the "
    "chapter; means and variances in float64.",
    criterion=f"Mean of the output 0 to {TOLERANCE:g}, and its biased variance var / (var + eps) to {TOLERANCE:g}.",
    does_not_show="This is arithmetic, not training: it does not show that a network is better for it. Shapes stay "
    "what they are; a skewed feature is as skewed afterwards.",
    arms={"none": "the points as they are", "batch": "batch norm"},
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(0.1, 0.2),
)
