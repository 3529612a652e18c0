"""3. Does batch norm allow larger learning rates, and does it help at small ones?

David Page's stress test trains an unbranched net of 8 layers while the rate grows by sqrt(2) an epoch, and looks when
the training breaks. It is repeated here in small. His net multiplies its outputs by 0.051; left out here, because
without batch norm the net then learns nothing in so few steps, and the ratio would have no denominator.

A growing rate starts from weights that smaller rates have found. So nets are also trained from scratch at fixed
rates, which answers Bjorck's other half of the claim: at the same small rate batch norm is of no use. Last, the
curvature: the largest eigenvalue of the Hessian with the statistics of the batch, and for the same weights with
statistics that stay as they are.
"""

import functools
from collections.abc import Sequence
from typing import Any

from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.records.charts import Axis, Chart, Curve, Panel, Points
from batchnorm.records.claim import Source
from batchnorm.records.estimates import geometric_mean, paired_ratio
from batchnorm.records.intervals import Interval, paired_difference
from batchnorm.records.selection import distinct, seed_values, select, values
from batchnorm.records.store import Line
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import plain_interval, points, rate, seeds

__all__ = ["EXPERIMENT"]

LEAST, WORKS = 8.0, 0.5
ROUNDING = 1e-9  # six stages are a ratio of exactly 8, which a mean of logarithms misses by a little
RATES = tuple(0.005 * 2 ** (x / 2) for x in range(26))
SMALL, FIXED = 0.02, (0.005, 0.02, 0.08, 0.32, 1.28, 5.12)
SIDE, SAMPLES, BATCH_SIZE, MOMENTUM = 8, 1077, 128, 0.9
LAYERS = ((8, 1), (16, 2), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1))  # channels, pooling
ARMS = {"none": "no normalization", "batch": "batch norm"}


def plan(scale: Scale) -> list[Task]:
    """A stress test (no fixed rate; steps are those at each rate) and trainings from scratch at each seed."""
    stage, steps = scale.pick(16, 32), scale.pick(100, 400)
    return [
        Task.of(arm, seed, lr=lr, steps=stage if lr is None else steps, samples=SAMPLES, data=scale.data)
        for seed in range(scale.seeds)
        for lr in (None, *FIXED)
        for arm in ARMS
    ]


def run(task: Task) -> list[dict[str, Any]]:
    """The accuracy at each rate of the stress test, or of one training and the curvature where it ends."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

    from batchnorm import probes
    from batchnorm.lab import scores
    from batchnorm.lab.data import cached
    from batchnorm.lab.loop import evaluate, fit
    from batchnorm.lab.splits import Split

    data = cached(task["data"])
    rows = torch.randperm(len(data.train.y), generator=torch.Generator().manual_seed(0))[: task["samples"]]
    train = Split(adaptive_avg_pool2d(data.train.x[rows], SIDE), data.train.y[rows])
    test = Split(adaptive_avg_pool2d(data.test.x, SIDE), data.test.y)
    torch.manual_seed(task.seed)
    net = _net(task.arm, train.x.shape[1], data.num_classes)
    train_on = functools.partial(
        fit, net, train, batch_size=BATCH_SIZE, momentum=MOMENTUM, steps=task["steps"]
    )

    if task["lr"] is None:
        records: list[dict[str, Any]] = []
        for stage, rate in enumerate(RATES):
            order = 1000 * task.seed + stage
            found = train_on(lr=rate, seed=order)
            if found.diverged:
                break
            with probes.batch_statistics(net), torch.no_grad():
                # As in training: running averages lag behind a net that changes this fast.
                records.append({"rate": rate, "accuracy": scores.accuracy(net(train.x), train.y)})
        working = [record["rate"] for record in records if record["accuracy"] >= WORKS]
        return [*records, {"largest": max(working, default=None)}]

    found = train_on(lr=task["lr"], seed=task.seed)
    end: dict[str, Any] = {"test_accuracy": None if found.diverged else evaluate(net, test).accuracy}
    if task["lr"] == SMALL:
        for name, mode in (("curvature", True), ("curvature_frozen", False)):
            net.train(mode)
            eigenvalue = probes.top_hessian_eigenvalue(
                net, lambda net: cross_entropy(net(train.x[:256]), train.y[:256]), tolerance=1e-2
            )
            end[name] = eigenvalue.value if eigenvalue.converged else None
    return [end]


def _net(arm: str, channels: int, classes: int) -> Any:
    from torch import nn

    from batchnorm.lab.models import maker, plain_batch_norm

    norm = plain_batch_norm if arm == "batch" else maker(arm)
    net = nn.Sequential()
    for width, pooling in LAYERS:
        conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        net.extend([conv, norm(width, 4), nn.ReLU(), nn.MaxPool2d(pooling)])
        channels = width
    head = nn.Linear(channels, classes, bias=False)
    nn.init.kaiming_normal_(head.weight, nonlinearity="relu")
    return net.extend([nn.AdaptiveMaxPool2d(1), nn.Flatten(), head])


def verdict(records: Sequence[Line]) -> Verdict:
    """The ratio of the largest rates of the stress test that still work."""
    largest = {arm: _largest(records, arm) for arm in ARMS}
    ratio = paired_ratio(largest["batch"], largest["none"])
    lost = sum(value is None for found in largest.values() for value in found.values())
    n = len(largest["batch"])
    never = f"; {lost} of {2 * n} runs never worked" if lost else ""
    holds = ratio is not None and ratio.mean >= LEAST * (1 - ROUNDING) and not lost
    check = Check(f"largest rate that still works: at least {LEAST:g} times as large with batch norm, mean of ratios",
                  f"{plain_interval(ratio)} times{never}", holds)  # fmt: skip
    none, batch = (geometric_mean(list(largest[arm].values())) for arm in ARMS)
    gain, best = _gain(records), {arm: rate(_best(records, arm)) for arm in ARMS}
    whole = sum(value == RATES[-1] for value in largest["batch"].values())
    end = f" ({whole} of {n} to the end of the test)" if whole else ""
    finding = (
        f"As the rate grew, the net with batch norm worked up to {plain_interval(batch)}{end} and without it up to "
        f"{plain_interval(none)}, a ratio of {plain_interval(ratio)} ({seeds(n)}){never}. From scratch the largest of "
        f"the fixed rates that work have a ratio of {plain_interval(_scratch(records))}. At the same small rate of "
        f"{SMALL:g} batch norm brought {points(gain)}, each at its best rate ({best['batch']} with, {best['none']} "
        f"without) {points(_best_gain(records))}."
    )
    helps = gain is not None and gain.low is not None and gain.low > 0
    contradiction = (
        f"Said to be of no use at the same small rate, batch norm brought {points(gain)} at {SMALL:g}."
        if helps
        else ""
    )
    unit = "times the largest rate without batch norm"
    return Verdict.of([check], ratio, unit=unit, finding=finding, contradiction=contradiction)


def _largest(records: Sequence[Line], arm: str) -> dict[int, float | None]:
    return seed_values([line for line in records if "largest" in line], "largest", arm=arm)


def _scratch(records: Sequence[Line]) -> Interval | None:
    """The ratio of the largest fixed rates at which a training from scratch gets half of the test split right."""
    found = []
    for arm in ("batch", "none"):
        ends = [line for line in select(records, arm=arm) if (line.get("test_accuracy") or 0.0) >= WORKS]
        found.append({seed: max(distinct(ends, "lr", seed=seed)) for seed in distinct(ends, "seed")})
    return paired_ratio(*found)


def _accuracies(records: Sequence[Line], arm: str, lr: float | None) -> dict[int, float | None]:
    return seed_values([line for line in records if "test_accuracy" in line], "test_accuracy", arm=arm, lr=lr)


def _gain(records: Sequence[Line]) -> Interval | None:
    return paired_difference(*(_accuracies(records, arm, SMALL) for arm in ("batch", "none")))


def _best(records: Sequence[Line], arm: str) -> float | None:
    """The fixed rate with the highest mean test accuracy; a training that diverged has none right."""
    means = {}
    for lr in FIXED:
        found = list(_accuracies(records, arm, lr).values())
        means[lr] = sum(value or 0.0 for value in found) / max(1, len(found))
    return max(means, key=lambda lr: (means[lr], -lr))


def _best_gain(records: Sequence[Line]) -> Interval | None:
    return paired_difference(*(_accuracies(records, arm, _best(records, arm)) for arm in ("batch", "none")))


def figures(records: Sequence[Line]) -> list[Chart]:
    """The stress test, trainings from scratch, and the curvature."""
    stages = [line for line in records if "rate" in line]
    rates, right = Axis("learning rate", log=True), Axis("training accuracy", range=(0.0, 1.05), percent=True)
    grown = [
        Curve.over_seeds(
            arm,
            {at: values(stages, "accuracy", arm=arm, rate=at) for at in distinct(stages, "rate", arm=arm)},
            label=words,
        )
        for arm, words in ARMS.items()
    ]
    ratio = paired_ratio(_largest(records, "batch"), _largest(records, "none"))
    fixed = [
        Curve.over_seeds(
            arm,
            {lr: [value or 0.0 for value in _accuracies(records, arm, lr).values()] for lr in FIXED},
            label=words,
        )
        for arm, words in ARMS.items()
    ]
    n = len(_largest(records, "batch"))
    stage = max((line["steps"] for line in stages), default=0)
    steps = max((line["steps"] for line in records if "test_accuracy" in line), default=0)
    ends = [line for line in records if "curvature" in line]
    sharp = {
        "none": ("none", "curvature", "no normalization"),
        "batch": ("batch", "curvature", "batch norm"),
        "frozen": ("batch", "curvature_frozen", "same weights, frozen statistics"),
    }
    curvature = [
        Points.over_seeds(look, {words: values(ends, field, arm=arm)}, label=words)
        for look, (arm, field, words) in sharp.items()
    ]
    frozen = paired_ratio(
        seed_values(ends, "curvature_frozen", arm="batch"), seed_values(ends, "curvature", arm="batch")
    )
    return [
        Chart(
            "stress-test",
            f"With batch norm the rate can grow {plain_interval(ratio)} times as far",
            f"Training accuracy after {stage} steps at each rate, one after the other in the same training: mean of "
            f"{seeds(n)} with 95% t intervals. A seed whose loss is no longer finite is left out from there.",
            [Panel(grown, rates, right)],
        ),
        Chart(
            "from-scratch",
            f"At rate {SMALL:g} batch norm brings {points(_gain(records))}, each at its best rate "
            f"{points(_best_gain(records))}",
            f"Test accuracy after {steps} steps from scratch at a fixed rate: mean of {seeds(n)} with 95% t "
            "intervals; what diverged counts as 0.",
            [Panel(fixed, rates, Axis("test accuracy", range=(0.0, 1.05), percent=True))],
        ),
        Chart(
            "curvature",
            f"Frozen statistics make the loss {plain_interval(frozen)} times as sharp",
            f"Largest eigenvalue of the Hessian on 256 training samples after {steps} steps at rate {SMALL:g}: mean of "
            f"{seeds(n)} with 95% t intervals. Lanczos to 1%; what did not converge is left out.",
            [Panel(curvature, Axis("network"), Axis("largest eigenvalue", log=True))],
        ),
    ]


EXPERIMENT = Experiment(
    number=3,
    name="larger-rates",
    title="Does batch norm allow larger learning rates, and does it help at small ones?",
    claim="Batch norm lets a network train at learning rates at which it breaks without, and is of no use at small "
    "ones.",
    source=Source(
        "D. Page, How to Train Your ResNet 7: Batch Norm, 2019; N. Bjorck et al., Understanding Batch Normalization, "
        "2018",
        "https://github.com/davidcpage/cifar10-fast/blob/master/batch_norm_post.ipynb",
    ),
    published="CIFAR-10, 8 layers: with batch norm best 0.853 at rates from 0.9 to 2.6 and 0.56 at 29; without best "
    "0.659, not finite at 0.32; largest eigenvalue 128, with frozen statistics 2246.",
    method=f"Page's test on images averaged to {SIDE}x{SIDE}: {len(LAYERS)} convolutions of 8 to 64 channels with or "
    "without batch norm (no weight and bias), then a linear layer, without his factor on its outputs; He's weights, "
    f"SGD with momentum {MOMENTUM:g}, batch {BATCH_SIZE} (his 512). The rate grows from 0.005 by sqrt(2) a stage to "
    f"29. Other nets train from scratch at {len(FIXED)} fixed rates.",
    criterion="In the stress test, the largest rate after which training accuracy is still at least "
    f"{WORKS:.0%} is at least {LEAST:g} times as large with batch norm, geometric mean over seeds.",
    does_not_show="That larger rates are why nets with batch norm generalise better. The limit depends on depth, "
    "weights at the start and the scale of the outputs, and is another one from scratch than for a rate that grows.",
    arms=ARMS,
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(38.0, 170.0),
    uses_data=True,
)
