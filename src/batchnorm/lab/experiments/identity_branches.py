"""6. Can very deep residual networks be trained because batch norm biases their blocks to the identity?

Without normalization each residual block adds a branch as large as its input, so that the second moment of the skip
path doubles: 2^l behind block l. Batch norm at the start of the branch makes its output of size 1 whatever the
skip path has grown to, so the second moment is l + 1 and the branch's share in it 1 / (l + 1): deep blocks begin
close to the identity. If that is what makes depth trainable, a scalar alpha on the branch that starts at 0 (SkipInit)
should do as well without any normalization, and one that starts at 1 should not.

Dividing each block by sqrt(2) is a control: signals keep their size, but each branch has half of it.
"""

from collections.abc import Sequence
from math import log2
from typing import Any

from batchnorm.lab import residual_depths as deep
from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.records.charts import Axis, Chart, Curve, Panel
from batchnorm.records.claim import Source
from batchnorm.records.estimates import geometric_mean, slope_interval
from batchnorm.records.intervals import Interval, mean_interval, paired_difference
from batchnorm.records.selection import distinct
from batchnorm.records.store import Line
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import percent_interval, plain_interval, points, seeds

__all__ = ["EXPERIMENT"]

TOLERANCE = 0.05
MEASURED = ("none", "batch")
TRAINS, FAILS = ("batch", "skipinit"), ("none", "alpha-one")
ARMS = {
    "none": "no normalization",
    "batch": "batch norm",
    "skipinit": "SkipInit, alpha from 0",
    "alpha-one": "alpha from 1",
    "halved": "blocks divided by sqrt(2)",
}


def plan(scale: Scale) -> list[Task]:
    """For each seed the moments, then trainings at all depths and rates."""
    return [
        task
        for seed in range(scale.seeds)
        for task in [*deep.moment_tasks(MEASURED, seed), *deep.training_tasks(ARMS, seed, scale)]
    ]


def run(task: Task) -> list[dict[str, Any]]:
    """Moments of a network at its first weights, or the accuracy that one is trained to."""
    return deep.measure_moments(task) if task["part"] == "moments" else deep.measure_training(task)


def verdict(records: Sequence[Line]) -> Verdict:
    """Both growths by depth, who trains at every depth, and who fails at the largest."""
    depths = distinct(records, "blocks", part="training")
    deepest = depths[-1]
    batch, none = _slope(records, "batch", log=False), _slope(records, "none", log=True)
    lost = {arm: [blocks for blocks in depths if deep.failing(records, arm, blocks)] for arm in TRAINS}
    accuracy = {arm: list(deep.accuracies(records, arm, deepest).values()) for arm in ARMS}
    reached = {arm: _reached(found) for arm, found in accuracy.items()}
    checks = [
        Check(f"batch norm: second moment grows by 1 a block, within {TOLERANCE:g}", plain_interval(batch),
              _near_one(batch)),
        Check(f"no normalization: log2 of the second moment grows by 1 a block, within {TOLERANCE:g}",
              plain_interval(none), _near_one(none)),
        *(
            Check(f"{ARMS[arm]}: training accuracy at least {deep.LEAST:g} at every depth in every seed",
                  f"missed at {', '.join(map(str, lost[arm]))} blocks" if lost[arm] else "at every depth",
                  not lost[arm])
            for arm in TRAINS
        ),
        *(
            Check(f"{ARMS[arm]}: below {deep.LEAST:g} at {deepest} blocks in every seed", reached[arm],
                  deep.failing(records, arm, deepest) == len(accuracy[arm]))
            for arm in FAILS
        ),
    ]  # fmt: skip
    tests = [deep.accuracies(records, arm, deepest, "test") for arm in ("skipinit", "batch")]
    finding = (
        f"Behind each block the second moment grew by {plain_interval(batch)} with batch norm, and its log2 by "
        f"{plain_interval(none)} without. With {deepest} blocks training reached {reached['batch']} with batch norm, "
        f"{reached['skipinit']} with SkipInit ({points(paired_difference(*tests))} against batch norm on the test "
        f"split), {reached['none']} without normalization, {reached['alpha-one']} with alpha from 1 and "
        f"{reached['halved']} with blocks divided by sqrt(2) ({seeds(len(accuracy['batch']))})."
    )
    return Verdict.of(checks, batch, unit="added to the second moment a block", finding=finding)


def _slope(records: Sequence[Line], arm: str, *, log: bool) -> Interval | None:
    """The slope over blocks of each seed, with its interval over seeds; None where a moment is not finite."""
    slopes = []
    for second in deep.moments(records, arm):
        y = [log2(value) if log else value for value in second if value is not None and value > 0]
        found = slope_interval(range(1, len(y) + 1), y) if len(y) == len(second) else None
        slopes.append(None if found is None else found.mean)
    return None if None in slopes else mean_interval(slopes)


def _near_one(found: Interval | None) -> bool:
    return found is not None and found.within(1 - TOLERANCE, 1 + TOLERANCE)


def _reached(accuracy: Sequence[float | None]) -> str:
    """The mean over the seeds that have one, and how many diverged."""
    diverged = accuracy.count(None)
    if diverged == len(accuracy):
        return "no finite loss"
    return percent_interval(mean_interval(accuracy)) + (f" ({diverged} diverged)" if diverged else "")


def figures(records: Sequence[Line]) -> list[Chart]:
    """Moments by depth, and accuracy by depth."""
    n = len(distinct(records, "seed"))
    blocks = len(deep.moments(records, "batch")[0])
    places = list(range(1, blocks + 1))
    second = [_by_block(arm, deep.moments(records, arm)) for arm in MEASURED]
    share = [_by_block(arm, deep.moments(records, arm, "share")) for arm in MEASURED]
    theory = [
        Curve("theory", places, [place + 1.0 for place in places], label="l + 1 and 1 / (l + 1)"),
        Curve("theory", places, [1 / (place + 1) for place in places], label="l + 1 and 1 / (l + 1)"),
    ]
    last = {arm: geometric_mean([found[-1] for found in deep.moments(records, arm)]) for arm in MEASURED}
    return [
        Chart(
            "moments",
            f"Behind {blocks} blocks the second moment is {plain_interval(last['batch'])} with batch norm and "
            f"{plain_interval(last['none'])} without",
            "At the first weights: second moment of the skip path behind each block, and that of the branch's output "
            f"divided by it. Geometric mean over {seeds(n)} with 95% t intervals.",
            [
                Panel([*second, theory[0]], Axis("block"), Axis("second moment", log=True), "skip path"),
                Panel(
                    [*share, theory[1]],
                    Axis("block"),
                    Axis("branch over skip path", log=True),
                    "share of the branch",
                ),
            ],
        ),
        deep.accuracy_chart(records, ARMS),
    ]


def _by_block(arm: str, lists: Sequence[Sequence[float | None]]) -> Curve:
    found = [geometric_mean(column) for column in zip(*lists, strict=True)]
    y, low, high = (
        [None if each is None else getattr(each, name) for each in found] for name in ("mean", "low", "high")
    )
    return Curve(arm, range(1, len(found) + 1), y, low, high)


EXPERIMENT = Experiment(
    number=6,
    name="identity-branches",
    title="Can very deep residual networks be trained because batch norm biases their blocks to the identity?",
    claim="Batch norm on the branch makes a residual block's branch small against its skip path, more so the deeper it "
    "lies; a learned scalar that starts at 0 makes deep networks trainable just as well.",
    source=Source(
        "S. De, S. L. Smith, Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep "
        "Networks, 2020",
        "https://arxiv.org/abs/2002.10444",
    ),
    published="Second moment 2^l without and l + 1 with batch norm behind block l. Wide ResNets on CIFAR-10, test "
    "accuracy in per cent at depth 16 / 100 / 1000: batch norm 93.5 / 94.7 / 94.6, SkipInit from 0 93.3 / 94.2 / 94.3, "
    "alpha from 1 93.0 / fails / fails, blocks divided by sqrt(2) 92.4 / 88.9 / fails.",
    method=deep.METHOD,
    criterion="Per block, the second moment grows by 1 with batch norm and its log2 by 1 without, 95% intervals within "
    f"{TOLERANCE:g}; with batch norm and with SkipInit training accuracy is at least {deep.LEAST:g} at every depth in "
    f"every seed; without normalization and with alpha from 1 it stays below at {deep.DEPTHS[-1]} blocks in every "
    "seed.",
    does_not_show="Whether SkipInit generalises as well: the networks are narrow, fully connected, trained for few "
    "steps on small images. In the paper SkipInit falls behind batch norm at large batches on ImageNet.",
    arms=ARMS,
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(210.0, 890.0),
    uses_data=True,
)
