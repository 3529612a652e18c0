"""19. Do statistics of small virtual batches make large batches generalise better?

Hoffer, Hubara and Soudry give large batches as many updates as small ones, and statistics of small virtual batches, so
that they generalise as well. All arms here have the same number of updates, the rate grows with the square root of
the batch, and ghost batch norm cuts the batch of 1024 into groups of 32 for its statistics. Batch norm at a batch of 32
with as many updates shows how large the gap is that ghost batch norm could close.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Any

from batchnorm.lab.batch_sizes import NETWORK, SAMPLES, errors, rates_in_words, trained
from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.records.charts import Axis, Chart, Panel, Points
from batchnorm.records.claim import Source
from batchnorm.records.intervals import Interval, paired_difference
from batchnorm.records.store import Line
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import count, plain_interval, seeds

__all__ = ["EXPERIMENT"]

LARGE, VIRTUAL = 1024, 32
RATES = (0.01, 0.03, 0.1)  # at a batch of 32
BATCHES = {"batch": LARGE, "ghost": LARGE, "small": VIRTUAL}
ARMS = {
    "batch": f"batch norm, batch {LARGE}",
    "ghost": f"ghost batch norm, batch {LARGE}, groups of {VIRTUAL}",
    "small": f"batch norm, batch {VIRTUAL}",
}


def plan(scale: Scale) -> list[Task]:
    """Each arm with each of its rates, all for the same number of updates."""
    steps = scale.pick(80, 200)
    return [
        Task.of(
            arm,
            seed,
            batch=batch,
            lr=float(f"{rate * sqrt(batch / VIRTUAL):.3g}"),
            steps=steps,
            samples=SAMPLES,
            data=scale.data,
        )
        for seed in range(scale.seeds)
        for rate in RATES
        for arm, batch in BATCHES.items()
    ]


def run(task: Task) -> list[dict[str, Any]]:
    """Train, and take the errors at the end."""
    return trained(task, steps=task["steps"], ghost=VIRTUAL)


def verdict(records: Sequence[Line]) -> Verdict:
    """The accuracy of ghost batch norm minus batch norm's, and of the small batch."""
    gain = _gain(records, "ghost")
    gap = _gain(records, "small")
    holds = gain is not None and gain.low is not None and gain.low > 0
    checks = [
        Check(f"ghost batch norm at batch {LARGE}: the 95% interval of its accuracy minus batch norm's is above 0",
              f"{plain_interval(gain, sign=True)} points", holds)
    ]  # fmt: skip
    finding = (
        f"With as many updates at batch {LARGE}, groups of {VIRTUAL} changed the accuracy by "
        f"{plain_interval(gain, sign=True)} points ({seeds(0 if gain is None else gain.n)}); a batch of {VIRTUAL} by "
        f"{plain_interval(gap, sign=True)}."
    )
    surprise = contradiction = ""
    if gap is not None and gap.high is not None and gap.high < 0:
        surprise = (
            "The small batch did worse than the large one at as many updates, so there is no loss of large batches "
            "here that ghost batch norm could make good."
        )
    if gain is not None and gain.high is not None and gain.high < 0:
        contradiction = "Ghost batch norm did worse than batch norm."
    return Verdict.of(
        checks,
        gain,
        unit="points of accuracy",
        finding=finding,
        contradiction=contradiction,
        surprise=surprise,
    )


def _gain(records: Sequence[Line], arm: str) -> Interval | None:
    """Accuracy minus that of batch norm at the large batch is batch norm's error minus the arm's."""
    return paired_difference(
        errors(records, arm="batch", batch=LARGE), errors(records, arm=arm, batch=BATCHES[arm])
    )


def figures(records: Sequence[Line]) -> list[Chart]:
    """The errors on what was trained on, and on what was not."""
    n = len({line["seed"] for line in records})
    fields = {"training": "train_error", "test": "test_error"}
    points = [
        Points.over_seeds(
            arm,
            {name: errors(records, field, arm=arm, batch=batch).values() for name, field in fields.items()},
        )
        for arm, batch in BATCHES.items()
    ]
    rates = "; ".join(f"{words}: {rates_in_words(records, arm)}" for arm, words in ARMS.items())
    steps = count(max(line["steps"] for line in records))
    return [
        Chart(
            "error",
            verdict(records).finding,
            f"Error after {steps} updates on the samples trained on and on the test split, running statistics: mean "
            "over "
            f"{seeds(n)} with 95% t intervals. Rates: {rates}.",
            [Panel(points, Axis("split"), Axis("error (%)"))],
        )
    ]


EXPERIMENT = Experiment(
    number=19,
    name="ghost-batch-norm",
    title="Do statistics of small virtual batches make large batches generalise better?",
    claim="With ghost batch norm and as many updates, large batches generalise better than with batch norm.",
    source=Source(
        "E. Hoffer, I. Hubara, D. Soudry, Train longer, generalize better, 2017",
        "https://arxiv.org/abs/1705.08741",
    ),
    published="On image classification, ghost batch norm narrows the gap between large and small batches; no number "
    "is compared here.",
    method=f"{NETWORK} {LARGE} of the {SAMPLES} samples are a batch, nearly all there are; 80 updates quick and 200 "
    "full for every "
    f"arm. Rates to choose from: {', '.join(f'{rate:g}' for rate in RATES)} at a batch of {VIRTUAL}, times the square "
    "root of "
    "the ratio of the batches.",
    criterion=f"At batch {LARGE} and as many updates the 95% interval of the accuracy with groups of {VIRTUAL} minus "
    "batch norm's, "
    "paired by seed, is above 0.",
    does_not_show="The paper's regime of many epochs on hundreds of thousands of images: a batch of nearly all "
    "samples is "
    "gradient descent, and the digits leave few errors to save.",
    arms=ARMS,
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(44.0, 200.0),
    seeds=(6, 12),
    uses_data=True,
)
