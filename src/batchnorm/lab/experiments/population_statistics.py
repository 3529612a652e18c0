"""14. Are averages over batches the statistics of the population?

What evaluation should use is the mean and variance of all values that a layer sees. Running averages, and
`torch.optim.swa_utils.update_bn`, average those of batches. That counts a small last batch as much as a full one, and
it leaves out how far the batches' means lie from each other: nothing where batches are drawn at random, most of the
variance where each is of one kind. Wu and Johnson add the means' spread; their batches are of one size.
`batchnorm.recalibrate` pools the sums of all values, in float64.

The same samples are cut into batches in several ways, and two batch norms, one behind the other, are measured and
compared with numpy on the uncut samples.
"""

from collections.abc import Sequence
from typing import Any

from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.records.charts import Axis, Chart, Panel, Points
from batchnorm.records.claim import Source
from batchnorm.records.estimates import geometric_mean
from batchnorm.records.intervals import mean_interval
from batchnorm.records.selection import distinct, seed_values, select, values
from batchnorm.records.store import Line
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import number, plain_interval, seeds

__all__ = ["EXPERIMENT"]

TOLERANCE = 1e-6
MISSED = 0.1  # a method that averages over batches has to show that the cuts are a test at all
GROUPS, GROUP, REST = 7, 100, 2  # seven kinds of samples, and two samples of an eighth
FEATURES, HIDDEN = 16, 32
SPREAD = 3.3  # standard deviation of the groups' means; within a group it is 1
SPLITS = {
    "whole": "one batch",
    "alike": "alike, equal",
    "ragged": "alike, last of 2",
    "kinds": "a kind each",
    "ragged-kinds": "a kind each, last of 2",
    "samples": "one sample each",
}
ARMS = {
    "update_bn": "torch's update_bn",
    "precise": "PreciseBN's formula",
    "recalibrate": "batchnorm.recalibrate",
}


def plan(scale: Scale) -> list[Task]:
    """Every way of cutting, measured by every method; the samples are the same at a seed."""
    return [
        Task.of(arm, seed, split=split, hidden=HIDDEN)
        for seed in range(scale.seeds)
        for split in SPLITS
        for arm in ARMS
        if arm == "recalibrate" or split != "samples"  # a single sample has no statistics of its own
    ]


def run(task: Task) -> list[dict[str, Any]]:
    """A record for each of the two layers: how far its statistics are from those of all samples."""
    import numpy as np
    import torch
    from torch import nn
    from torch.optim.swa_utils import update_bn

    import batchnorm as bn

    model = nn.Sequential(
        bn.BatchNorm1d(FEATURES),
        nn.Linear(FEATURES, task["hidden"]),
        nn.ReLU(),
        bn.BatchNorm1d(task["hidden"]),
    )
    kinds = SPREAD * torch.randn(GROUPS + 1, FEATURES)
    x = kinds.repeat_interleave(torch.tensor([*[GROUP] * GROUPS, REST]), 0)
    x = x + torch.randn(x.shape)
    batches = _cut(x, task["split"], torch.randperm(len(x)))

    first: Any = model[0]
    linear: Any = model[1]
    last: Any = model[3]
    weight, bias = (p.detach().double().numpy() for p in (linear.weight, linear.bias))
    samples = x.double().numpy()
    mean, var = samples.mean(0), samples.var(0, ddof=1)
    behind = np.maximum((samples - mean) / np.sqrt(var + first.eps) @ weight.T + bias, 0)
    population = [(mean, var), (behind.mean(0), behind.var(0, ddof=1))]

    if task.arm == "precise":
        found = [_precise([batch.double().numpy() for batch in batches])]
    else:
        if task.arm == "update_bn":
            update_bn(batches, model)
        else:
            bn.recalibrate_(model, batches)
        found = [
            (layer.running_mean.double().numpy(), layer.running_var.double().numpy())
            for layer in (first, last)
        ]
    records = []
    for place, ((mean, var), (true_mean, true_var)) in enumerate(zip(found, population, strict=False), 1):
        records.append(
            {
                "layer": place,
                "mean_error": np.max(np.abs(mean - true_mean) / np.sqrt(true_mean**2 + true_var)),
                "var_error": np.max(np.abs(var / true_var - 1)),
                "var_share": np.mean(var / true_var),
            }
        )
    return records


def _cut(x: Any, split: str, order: Any) -> list[Any]:
    """The samples in batches; `x` is sorted by kind, and `order` shuffles it."""
    n = len(x)
    sizes = {
        "whole": [n],
        "alike": [n // 13] * 13,  # 702 samples: 13 batches of 54
        "ragged": [*[GROUP] * GROUPS, REST],
        "kinds": [*[GROUP] * (GROUPS - 1), GROUP + REST],
        "ragged-kinds": [*[GROUP] * GROUPS, REST],
        "samples": [1] * n,
    }[split]
    return list((x if "kinds" in split else x[order]).split(sizes))


def _precise(batches: Sequence[Any]) -> tuple[Any, Any]:
    """The paper's E[mean_B] and E[mean_B^2 + var_B] - mean^2, made unbiased for the number of all samples."""
    means, squares = ([part(batch) for batch in batches] for part in (_mean, _second_moment))
    mean = sum(means) / len(means)
    n = sum(len(batch) for batch in batches)
    return mean, (sum(squares) / len(squares) - mean**2) * n / (n - 1)


def _mean(batch: Any) -> Any:
    return batch.mean(0)


def _second_moment(batch: Any) -> Any:
    return batch.mean(0) ** 2 + batch.var(0)


def verdict(records: Sequence[Line]) -> Verdict:
    """The worst of recalibrate's errors over cuts, layers and channels; and that averages do miss the variance."""
    worst = _worst(records)
    largest = number(max((error for error in worst.values() if error is not None), default=None))
    missed = values(records, "var_error", arm="update_bn", split="kinds", layer=1)
    checks = [
        Check(f"recalibrate: mean and variance within {TOLERANCE:g} of numpy's, in every layer, cut and seed",
              f"at most {largest} away",
              bool(worst) and all(w is not None and w <= TOLERANCE for w in worst.values())),
        Check(f"update_bn: a variance off by more than {MISSED:.0%} with a kind a batch, in every seed",
              f"off by {plain_interval(mean_interval(missed))} in the worst channel",
              bool(missed) and all(m is not None and m > MISSED for m in missed)),
    ]  # fmt: skip
    n = len(distinct(records, "seed"))
    value = mean_interval(worst.values()) if None not in worst.values() else None
    finding = (
        f"However the samples were cut, recalibrate was within {largest} "
        f"of the population ({seeds(n)}). With a kind of sample a batch, update_bn found "
        f"{_share(records, 'update_bn', 'kinds')} of the first layer's variance and PreciseBN's formula "
        f"{_share(records, 'precise', 'kinds')}; with the last batch of {REST} besides, "
        f"{_share(records, 'update_bn', 'ragged-kinds')} "
        f"and {_share(records, 'precise', 'ragged-kinds')}."
    )
    return Verdict.of(checks, value, unit="largest relative error", finding=finding)


def _worst(records: Sequence[Line]) -> dict[int, float | None]:
    """Recalibrate's largest error at each seed; None where one is not a number."""
    found: dict[int, float | None] = {}
    for seed in distinct(records, "seed"):
        errors = [
            error
            for field in ("mean_error", "var_error")
            for error in values(records, field, arm="recalibrate", seed=seed)
        ]
        numbers = [error for error in errors if error is not None]
        found[seed] = max(numbers) if numbers and len(numbers) == len(errors) else None
    return found


def _share(records: Sequence[Line], arm: str, split: str) -> str:
    return plain_interval(mean_interval(values(records, "var_share", arm=arm, split=split, layer=1)))


def figures(records: Sequence[Line]) -> list[Chart]:
    """Errors by cut, first of the variance and then of the mean."""
    n = len(distinct(records, "seed"))
    caption = (
        f"Largest error of {FEATURES} channels in the first and {HIDDEN} in the second layer against numpy on all "
        f"samples, in float64: geometric mean over {seeds(n)} with 95% t intervals. An error of 0 is not drawn."
    )
    worst = number(max((error for error in _worst(records).values() if error is not None), default=None))
    off = mean_interval(values(records, "mean_error", arm="update_bn", split="ragged", layer=1))
    return [
        Chart(
            "variance",
            f"With a kind of sample a batch, update_bn finds {_share(records, 'update_bn', 'kinds')} of the variance, "
            f"recalibrate {_share(records, 'recalibrate', 'kinds')}",
            f"{caption} Relative to the true variance.",
            _panels(records, "var_error", "relative error of the variance"),
            height=360,
        ),
        Chart(
            "mean",
            f"A last batch of {REST} moves update_bn's mean by {number(None if off is None else off.mean)} of the "
            f"values' size; recalibrate's largest error is {worst}",
            f"{caption} Relative to the root of the true second moment.",
            _panels(records, "mean_error", "relative error of the mean"),
            height=360,
        ),
    ]


def _panels(records: Sequence[Line], field: str, title: str) -> list[Panel]:
    panels = []
    for layer, words in ((1, "first layer"), (2, "second layer")):
        marks = []
        for arm in ARMS:
            columns: dict[float | str, list[float | None]] = {
                words_of: [
                    value or None
                    for value in seed_values(records, field, arm=arm, split=split, layer=layer).values()
                ]
                for split, words_of in SPLITS.items()
                if select(records, arm=arm, split=split, layer=layer)
            }
            if columns:
                marks.append(_geometric(arm, columns))
        panels.append(Panel(marks, Axis("how the samples were cut"), Axis(title, log=True), title=words))
    return panels


def _geometric(arm: str, columns: dict[float | str, list[float | None]]) -> Points:
    found = [geometric_mean(column) for column in columns.values()]
    y, low, high = (
        [None if each is None else getattr(each, name) for each in found] for name in ("mean", "low", "high")
    )
    return Points(arm, list(columns), y, low, high)


EXPERIMENT = Experiment(
    number=14,
    name="population-statistics",
    title="Are averages over batches the statistics of the population?",
    claim="The mean and variance of the population are not averages of those of batches: the spread of the batches' "
    "means, and their sizes, belong to it.",
    source=Source(
        'Y. Wu, J. Johnson, Rethinking "Batch" in BatchNorm, 2021', "https://arxiv.org/abs/2105.07576"
    ),
    published="Mean = E[mean_B], var = E[mean_B^2 + var_B] - mean^2 over batches of one size; a thousand to ten "
    "thousand samples suffice.",
    method=f"{GROUPS * GROUP + REST} samples with {FEATURES} features, {GROUP} of each of {GROUPS} kinds whose means "
    f"lie {SPREAD:g} standard deviations apart and {REST} of an eighth, cut into batches in {len(SPLITS)} ways. A "
    "batch "
    "norm, a linear layer, a ReLU and a batch norm, float32; the reference is numpy in float64 on the uncut samples, "
    "the "
    "second layer behind the first one's population statistics. PreciseBN's formula is worked out for the first layer.",
    criterion=f"With recalibrate mean and variance are within {TOLERANCE:g} (relative) of numpy's on pooled "
    "samples in both layers, however they are cut, in every seed; with update_bn the variance is off by more than "
    f"{MISSED:.0%} where each batch is of one kind.",
    does_not_show="What it costs in accuracy, which is little where batches are shuffled and of one size; nor how many "
    "samples suffice.",
    arms=ARMS,
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(1.2, 2.0),
)
