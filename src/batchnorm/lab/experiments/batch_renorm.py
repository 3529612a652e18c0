"""13. Does batch renormalization keep small batches as good as large ones?

In training batch renormalization normalizes with the batch, as batch norm does, and then corrects by r and d, which
take the output to what the running statistics would give; no gradient flows through them. So training and evaluation
see the same function, as far as the clips allow. The clips open by a schedule: batch norm first (r_max 1, d_max 0),
then r_max up to 3 and d_max up to 5. Ioffe's schedule is in steps of a training that is far longer; here it has the
same shape in a shorter run.
"""

from collections.abc import Sequence
from typing import Any

from batchnorm.lab.batch_sizes import NETWORK, SAMPLES, errors, rates_in_words, trained
from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.records.charts import Axis, Chart, Panel, Points
from batchnorm.records.claim import Source
from batchnorm.records.intervals import Interval, paired_difference
from batchnorm.records.store import Line
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import plain_interval, seeds

__all__ = ["EXPERIMENT"]

SMALL, LARGE = 4, 64
WITHIN = 1.0  # points
RATES = (0.02, 0.05, 0.12)  # for 64 samples
ARMS = {"batch": "batch norm", "renorm": "batch renormalization"}


def plan(scale: Scale) -> list[Task]:
    """Both arms at both batch sizes with each of their rates."""
    epochs = scale.pick(4, 10)
    return [
        Task.of(arm, seed, batch=batch, lr=rate * batch / 64, epochs=epochs, samples=SAMPLES, data=scale.data)
        for seed in range(scale.seeds)
        for batch in (SMALL, LARGE)
        for rate in RATES
        for arm in ARMS
    ]


def run(task: Task) -> list[dict[str, Any]]:
    """Train, and take the errors at the end."""
    return trained(task, epochs=task["epochs"])


def verdict(records: Sequence[Line]) -> Verdict:
    """The error minus batch norm's at the small batch and at the large one."""
    small, large = (_difference(records, batch) for batch in (SMALL, LARGE))
    better = small is not None and small.high is not None and small.high < 0
    worse = small is not None and small.low is not None and small.low > 0
    checks = [
        Check(f"batch {SMALL}: the 95% interval of the error minus batch norm's is below 0",
              f"{plain_interval(small, sign=True)} points", better),
        Check(f"batch {LARGE}: the 95% interval of the difference lies within {WITHIN:g} point of 0",
              f"{plain_interval(large, sign=True)} points", large is not None and large.within(-WITHIN, WITHIN)),
    ]  # fmt: skip
    finding = (
        f"At batch {SMALL} the error with batch renormalization was {plain_interval(small, sign=True)} points from "
        "batch "
        f"norm's ({seeds(0 if small is None else small.n)}), at batch {LARGE} {plain_interval(large, sign=True)} "
        "points."
    )
    contradiction = f"At batch {SMALL} batch renormalization was worse than batch norm." if worse else ""
    return Verdict.of(
        checks, small, unit="points of error at batch 4", finding=finding, contradiction=contradiction
    )


def _difference(records: Sequence[Line], batch: int) -> Interval | None:
    return paired_difference(*(errors(records, arm=arm, batch=batch) for arm in ("renorm", "batch")))


def figures(records: Sequence[Line]) -> list[Chart]:
    """The errors of both at both batch sizes, and their paired difference."""
    n = len({line["seed"] for line in records})
    names = {batch: f"batch {batch}" for batch in (SMALL, LARGE)}
    points = [
        Points.over_seeds(
            arm, {name: errors(records, arm=arm, batch=batch).values() for batch, name in names.items()}
        )
        for arm in ARMS
    ]
    found = [_difference(records, batch) for batch in names]
    gaps = Points(
        "renorm",
        list(names.values()),
        [None if each is None else each.mean for each in found],
        [None if each is None else each.low for each in found],
        [None if each is None else each.high for each in found],
    )
    return [
        Chart(
            "error",
            verdict(records).finding,
            f"Mean over {seeds(n)} with 95% t intervals; the difference is paired by seed, and below 0 batch "
            f"renormalization is better. Rates: batch norm {rates_in_words(records, 'batch')}; batch renormalization "
            f"{rates_in_words(records, 'renorm')}.",
            [
                Panel(points, Axis("batch size"), Axis("test error (%)"), title="error"),
                Panel([gaps], Axis("batch size"), Axis("points of error"), title="minus batch norm's"),
            ],
        )
    ]


EXPERIMENT = Experiment(
    number=13,
    name="batch-renorm",
    title="Does batch renormalization help where batches are small?",
    claim="With small batches batch renormalization trains better than batch norm, and with large ones as well.",
    source=Source("S. Ioffe, Batch Renormalization, 2017", "https://arxiv.org/abs/1702.03275"),
    published="No number is compared here. Wu and He 2018 give ResNet-50 on ImageNet at batch 4: error 26.3% with "
    "batch renormalization, 27.3% with batch norm.",
    method=f"{NETWORK} 4 epochs quick and 10 full. Rates to choose from: {', '.join(f'{rate:g}' for rate in RATES)} "
    "for 64 "
    "samples, scaled with the batch. Schedule of the paper's shape: batch norm for the first 1/25 of the steps, then "
    "r_max to 3 at "
    "8/25 and d_max to 5 at 5/25. Running averages have the paper's rate 0.01 at batch 4 and 0.1 at batch 64, for "
    "both arms.",
    criterion=f"At batch {SMALL} the 95% interval of the error minus batch norm's, paired by seed, is below 0; at "
    f"batch {LARGE} it "
    f"lies within {WITHIN:g} point of 0.",
    does_not_show="Whether it helps where the samples of a batch are not drawn at random, the other case that it is "
    "meant for: batches here are shuffled.",
    arms=ARMS,
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(110.0, 500.0),
    seeds=(6, 12),
    uses_data=True,
)
