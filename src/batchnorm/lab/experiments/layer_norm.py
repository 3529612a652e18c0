"""11. Does a sample's output depend on the other samples of its batch?

Batch norm averages a feature over the samples, layer norm averages a sample over its features. So with batch norm
a sample's output changes when its companions do, and with layer norm it cannot. The picture that seed 000 shows has
N = 2 sequences of L = 1 with D = 256 features; here the second of them is drawn anew, and the question is how far
the first one's output moves. Which values a norm averages is not drawn by hand either: it is read off the gradient
of one output with respect to every input, which is exactly 0 where the output does not depend on it.
"""

from collections.abc import Sequence
from typing import Any

from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.records.charts import Axis, Cells, Chart, Panel, Points
from batchnorm.records.claim import Source
from batchnorm.records.intervals import mean_interval
from batchnorm.records.selection import select, values
from batchnorm.records.store import Line
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import plain_interval, seeds

__all__ = ["EXPERIMENT"]

LEAST = 0.1
SAMPLES, FEATURES = 2, 256
SMALL = (3, 4, 3)  # samples, channels, positions of the picture of the axes
ARMS = {"batch": "batch norm", "layer": "layer norm", "group": "group norm", "instance": "instance norm"}


def plan(scale: Scale) -> list[Task]:
    """Every norm at every seed; the two that the claim is about decide."""
    return [Task.of(arm, seed) for seed in range(scale.seeds) for arm in ARMS]


def run(task: Task) -> list[dict[str, Any]]:
    """Exchange the companions of one sample, in training and in evaluation; and map what an output depends on."""
    import torch
    from torch import nn

    from batchnorm import BatchNorm1d

    def norm(channels: int, positions: int) -> nn.Module:
        made: dict[str, nn.Module] = {
            "batch": BatchNorm1d(channels),
            "layer": nn.GroupNorm(1, channels),  # with its one group, layer norm over channels and positions
            "group": nn.GroupNorm(2, channels),
            "instance": nn.GroupNorm(channels, channels),
        }
        return nn.LayerNorm(channels) if task.arm == "layer" and positions == 1 else made[task.arm]

    layer = norm(FEATURES, 1)
    shape = (SAMPLES, FEATURES)
    sample, companions, others = torch.randn(1, FEATURES), torch.randn(shape)[1:], torch.randn(shape)[1:]
    moved = {}
    for mode in ("training", "evaluation"):
        layer.train(mode == "training")
        with torch.no_grad():
            first, second = (layer(torch.cat([sample, rest]))[0] for rest in (companions, others))
        moved[f"moved_in_{mode}"] = (second - first).abs().max().item()

    x = torch.randn(SMALL, requires_grad=True)
    norm(SMALL[1], SMALL[2])(x)[0, 0, 0].backward()
    assert x.grad is not None
    return [{**moved, "depends": (x.grad != 0).int().flatten(1).tolist()}]


def verdict(records: Sequence[Line]) -> Verdict:
    """How far the sample's output moves in training when its companions are exchanged."""
    batch, layer = (values(records, "moved_in_training", arm=arm) for arm in ("batch", "layer"))
    moved = mean_interval(batch)
    checks = [
        Check(f"batch norm: the output moves by more than {LEAST:g} in every seed", plain_interval(moved),
              all(value is not None and value > LEAST for value in batch)),
        Check("layer norm: it moves by exactly 0 in every seed", plain_interval(mean_interval(layer)),
              all(value == 0 for value in layer)),
    ]  # fmt: skip
    evaluated = mean_interval(values(records, "moved_in_evaluation", arm="batch"))
    finding = (
        f"With other companions the same sample's output moved by {plain_interval(moved)} with batch norm "
        f"({seeds(len(batch))}), and by {plain_interval(mean_interval(layer))} with layer norm. In evaluation, where "
        f"batch norm uses running statistics, it moved by {plain_interval(evaluated)}."
    )
    return Verdict.of(checks, moved, unit="largest change of an output", finding=finding)


def figures(records: Sequence[Line]) -> list[Chart]:
    """Which values each norm averages, and how far the output moved."""
    n = len(values(records, "moved_in_training", arm="batch"))
    channels = [f"{c}.{p}" for c in range(SMALL[1]) for p in range(SMALL[2])]
    maps = []
    for arm, words in ARMS.items():
        depends = select(records, arm=arm)[0]["depends"]
        cells = Cells([str(i) for i in range(SMALL[0])], channels, depends, "the output depends on it")
        maps.append(Panel([cells], Axis("channel.position"), Axis("sample"), title=words))
    points = [
        Points.over_seeds(
            arm,
            {mode: values(records, f"moved_in_{mode}", arm=arm) for mode in ("training", "evaluation")},
            label=words,
        )
        for arm, words in ARMS.items()
    ]
    still = [ARMS[arm] for arm in ARMS if all(v == 0 for v in values(records, "moved_in_training", arm=arm))]
    return [
        Chart(
            "axes",
            f"The output of one sample depends on other samples with {_others(records)}",
            "Where the gradient of the first output (sample 0, channel 0, position 0) is not exactly 0, measured at "
            f"an input of shape {SMALL} (seed 0).",
            maps,
            height=220,
        ),
        Chart(
            "companions",
            f"Other companions do not move the output of {' or '.join(still) or 'any norm'}",
            f"Largest change of the sample's {FEATURES} outputs when the other sample of the batch is drawn anew: mean "
            f"over {seeds(n)} with 95% t intervals.",
            [Panel(points, Axis("mode"), Axis("largest change of an output"))],
        ),
    ]


def _others(records: Sequence[Line]) -> str:
    found = [ARMS[arm] for arm in ARMS if any(map(any, select(records, arm=arm)[0]["depends"][1:]))]
    return f"{' and '.join(found)} only" if found else "none of these norms"


EXPERIMENT = Experiment(
    number=11,
    name="layer-norm",
    title="Does a sample's output depend on the other samples of its batch?",
    claim="Batch norm averages over samples and layer norm over features, so that only batch norm's output of one "
    "sample depends on its companions.",
    source=Source(
        "J. L. Ba, J. R. Kiros, G. E. Hinton, Layer Normalization, 2016", "https://arxiv.org/abs/1607.06450"
    ),
    published=f"A drawing of the averaged axes for N = 2, L = 1, D = {FEATURES}; no number.",
    method=f"One sample of {FEATURES} features in a batch of {SAMPLES}; the other is drawn anew and the first one's "
    "output compared, float32, in training and in evaluation.",
    criterion=f"Exchanging the companions moves the output by more than {LEAST:g} with batch norm and by exactly 0 "
    "with layer norm, in every seed.",
    does_not_show="Which of the two trains better. Dependence on companions is noise that regularises in large "
    "batches and harms in small ones; here it is only shown to be there.",
    arms=ARMS,
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(0.1, 0.2),
)
