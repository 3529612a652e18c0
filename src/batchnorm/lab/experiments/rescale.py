"""7. Is normalization needed to train very deep residual networks, or do constants do?

RescaleNet joins a block of a network without normalization as y = sqrt(1 - b^2) x + b F(x), with b^2 = 1 / (l + L) for
block l of L. As F(x) has the size of x, the second moment stays what it was through any number of blocks, and half
of the first signal is still there at the end. The plain network, whose signals double with each block, is the control;
batch norm is what the constants stand in for.
"""

from collections.abc import Sequence
from typing import Any

from batchnorm.lab import residual_depths as deep
from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.records.charts import Axis, Chart, Curve, Panel
from batchnorm.records.claim import Source
from batchnorm.records.intervals import mean_interval, paired_difference
from batchnorm.records.selection import distinct
from batchnorm.records.store import Line
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import percent, plain_interval, points, seeds

__all__ = ["EXPERIMENT"]

LOW, HIGH = 0.9, 1.1
ARMS = {"none": "no normalization", "batch": "batch norm", "rescale": "RescaleNet's constants"}


def plan(scale: Scale) -> list[Task]:
    """For each seed the moments, then trainings at all depths and rates."""
    return [
        task
        for seed in range(scale.seeds)
        for task in [*deep.moment_tasks(["rescale"], seed), *deep.training_tasks(ARMS, seed, scale)]
    ]


def run(task: Task) -> list[dict[str, Any]]:
    """Moments of a network at its first weights, or the accuracy that one is trained to."""
    return deep.measure_moments(task) if task["part"] == "moments" else deep.measure_training(task)


def verdict(records: Sequence[Line]) -> Verdict:
    """The second moment at the end, and the accuracy wherever the plain network fails."""
    last = [second[-1] for second in deep.moments(records, "rescale")]
    moment = None if None in last else mean_interval(last)
    depths = distinct(records, "blocks", part="training")
    seed_count = len(distinct(records, "seed"))
    hard = [blocks for blocks in depths if deep.failing(records, "none", blocks) == seed_count]
    lost = [blocks for blocks in hard if deep.failing(records, "rescale", blocks)]
    lowest = _lowest(records, hard)
    where = f"{', '.join(map(str, hard))} blocks" if hard else "no depth"
    checks = [
        Check(f"second moment behind the last of {deep.BLOCKS} blocks: 95% interval in [{LOW:g}, {HIGH:g}]",
              plain_interval(moment), moment is not None and moment.within(LOW, HIGH)),
        Check(f"training accuracy at least {deep.LEAST:g} in every seed at every depth where the plain network stays "
              "below it in every seed",
              f"the plain network fails at {where}; at the least {percent(lowest)} there", bool(hard) and not lost),
    ]  # fmt: skip
    tests = [deep.accuracies(records, arm, depths[-1], "test") for arm in ("rescale", "batch")]
    finding = (
        f"Behind {deep.BLOCKS} blocks the second moment was {plain_interval(moment)} with RescaleNet's constants. The "
        f"plain network stayed below {deep.LEAST:.0%} in every seed at {where}"
        + (
            f", where with the constants training reached {percent(lowest)} or more"
            if hard and not lost
            else ""
        )
        + (
            f", where the constants missed {deep.LEAST:.0%} too at {', '.join(map(str, lost))}"
            if lost
            else ""
        )
        + f". With {depths[-1]} blocks their test accuracy was {points(paired_difference(*tests))} against batch "
        f"norm's ({seeds(seed_count)})."
    )
    return Verdict.of(checks, moment, unit="second moment at the end", finding=finding)


def _lowest(records: Sequence[Line], hard: Sequence[int]) -> float | None:
    """The lowest accuracy of any seed at these depths; None where there is none or one diverged."""
    found = [value for blocks in hard for value in deep.accuracies(records, "rescale", blocks).values()]
    numbers = [value for value in found if value is not None]
    return min(numbers) if numbers and len(numbers) == len(found) else None


def figures(records: Sequence[Line]) -> list[Chart]:
    """The second moment by depth, and accuracy by depth."""
    lists = deep.moments(records, "rescale")
    blocks = len(lists[0])
    curve = Curve.over_seeds(
        "rescale", {place + 1: [each[place] for each in lists] for place in range(blocks)}
    )
    last = mean_interval([each[-1] for each in lists])
    return [
        Chart(
            "moments",
            f"With the constants the second moment is {plain_interval(last)} behind {blocks} blocks",
            "Second moment of the skip path behind each block at the first weights, without normalization; the input "
            f"has 1. Mean over {seeds(len(lists))} with 95% t intervals.",
            [Panel([curve], Axis("block"), Axis("second moment", range=(0.8, 1.2)))],
        ),
        deep.accuracy_chart(records, ARMS),
    ]


EXPERIMENT = Experiment(
    number=7,
    name="rescale",
    title="Is normalization needed to train very deep residual networks, or do constants do?",
    claim="Residual networks without normalization train at any depth when constants keep the second moment of their "
    "signals: y = sqrt(1 - b^2) x + b F(x) with b^2 = 1 / (l + L) in block l of L.",
    source=Source(
        "J. Shao, K. Hu, C. Wang, X. Xue, B. Raj, Is normalization indispensable for training deep neural network?, "
        "2020",
        "https://proceedings.neurips.cc/paper/2020/hash/9b8619251a19057cff70779273e95aa6-Abstract.html",
    ),
    published="The same performance as with batch norm, or slightly better, on ImageNet, MS-COCO, Kinetics and WMT.",
    method=deep.METHOD + " RescaleNet's constants only: not its learned factors.",
    criterion=f"The 95% interval of the second moment behind the last of {deep.BLOCKS} blocks lies in [{LOW:g}, "
    f"{HIGH:g}], and training accuracy is at least {deep.LEAST:g} in every seed at every depth (4, 16, 64, 128 blocks) "
    "where the plain network stays below it in every seed.",
    does_not_show="Whether the constants replace batch norm on large images: the networks are narrow, fully "
    "connected, and trained for few steps. Batch norm's regularisation and larger rates are other claims.",
    arms=ARMS,
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(110.0, 470.0),
    uses_data=True,
)
