"""20. How far does a network get when only the weight and bias of its batch norms are trained?

Frankle, Schwab and Morcos froze every convolution and the output of a ResNet at their random first values. What is left
are two numbers a channel, and with those alone the deepest network reached 82% on CIFAR-10. The arm to compare with
trains the output layer instead, on features that stay random; the arm that trains everything shows what there was
to gain. Each arm has a learning rate of its own.
"""

from collections.abc import Sequence
from typing import Any

from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.lab.tuned import accuracies, best_rate
from batchnorm.records.charts import Axis, Chart, Curve, Panel, Points
from batchnorm.records.claim import Source
from batchnorm.records.intervals import Interval, mean_interval, paired_difference
from batchnorm.records.selection import distinct, values
from batchnorm.records.store import Line
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import count, percent, percent_interval, points, rate, seeds

__all__ = ["EXPERIMENT"]

LEAST = 0.10
DEPTH, WIDTH = 14, 8
BATCH_SIZE, MOMENTUM = 64, 0.9
RATES = {"all": (0.03, 0.1, 0.3), "batch": (3.0, 10.0, 30.0), "head": (0.1, 1.0, 10.0)}
ARMS = {"all": "all weights", "batch": "only batch norms' weight and bias", "head": "only the output layer"}


def plan(scale: Scale) -> list[Task]:
    """Each arm at each of its rates; a full survey adds a deeper network."""
    return [
        Task.of(arm, seed, depth=depth, lr=lr, steps=scale.pick(150, 250), data=scale.data)
        for seed in range(scale.seeds)
        for depth in scale.pick((DEPTH,), (DEPTH, 26))
        for arm, rates in RATES.items()
        for lr in rates
    ]


def run(task: Task) -> list[dict[str, Any]]:
    """Train what the arm names, and take the accuracies at the end."""
    import torch

    from batchnorm.lab.data import cached
    from batchnorm.lab.digits import native
    from batchnorm.lab.loop import evaluate, fit
    from batchnorm.lab.models import construct

    data = cached(task["data"])
    splits = {name: native(data.name, getattr(data, name)) for name in ("train", "validation", "test")}
    shape = tuple(splits["train"].x.shape[1:])
    torch.manual_seed(task.seed)
    net = construct("resnet", "batch", input_shape=shape, num_classes=data.num_classes, depth=task["depth"],
                    width=WIDTH, stride=1 if min(shape[1:]) <= 8 else 2)  # fmt: skip
    trained = _choose(net, task.arm)
    found = fit(net, splits["train"], lr=task["lr"], steps=task["steps"], batch_size=BATCH_SIZE, seed=task.seed,
                momentum=MOMENTUM, decay=True)  # fmt: skip
    record: dict[str, Any] = {"trained": trained, "weights": sum(p.numel() for p in net.parameters())}
    for name, split in splits.items():
        record[name] = None if found.diverged else evaluate(net, split).accuracy
    return [record]


def _choose(net: Any, arm: str) -> int:
    """Let only the arm's parameters require a gradient, and return how many numbers those are."""
    from batchnorm.surgery.layers import batch_norm_paths

    norms = {id(p) for path in batch_norm_paths(net) for p in net.get_submodule(path).parameters()}
    head = {id(p) for p in net.head.parameters()}
    for parameter in net.parameters():
        kind = "batch" if id(parameter) in norms else "head" if id(parameter) in head else "rest"
        parameter.requires_grad_(arm in ("all", kind))
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def _lead(records: Sequence[Line], depth: int) -> Interval | None:
    return paired_difference(*(accuracies(records, arm=arm, depth=depth) for arm in ("batch", "head")))


def verdict(records: Sequence[Line]) -> Verdict:
    """The accuracy of training the batch norms minus that of training the output layer."""
    lead = _lead(records, DEPTH)
    means = {arm: mean_interval(accuracies(records, arm=arm, depth=DEPTH).values()) for arm in ARMS}
    trained = {arm: values(records, "trained", arm=arm, depth=DEPTH)[0] for arm in ARMS}
    n = len(distinct(records, "seed"))
    whole = lead is not None and lead.n == n
    checks = [
        Check(f"ResNet-{DEPTH}: test accuracy with only the batch norms trained at least {100 * LEAST:g} points above "
              "that with only the output layer trained, lower end of the 95% interval",
              points(lead), whole and lead is not None and lead.low is not None and lead.low >= LEAST),
    ]  # fmt: skip
    finding = (
        f"With all else at its random values, training only the {count(trained['batch'])} weights and biases of the "
        f"batch norms reached {percent_interval(means['batch'])} test accuracy, training only the "
        f"{count(trained['head'])} of the output layer {percent_interval(means['head'])}: {points(lead)} "
        f"({seeds(n)}). Training all {count(trained['all'])} reached {percent_interval(means['all'])}."
    )
    contradiction = (
        "Training only the batch norms did worse here than training only the output layer."
        if lead is not None and lead.high is not None and lead.high < 0
        else ""
    )
    return Verdict.of(
        checks, lead, unit="of test accuracy, batch norms minus output layer", finding=finding,
        contradiction=contradiction,
    )  # fmt: skip


def figures(records: Sequence[Line]) -> list[Chart]:
    """Accuracy of what is trained, by depth, and at every rate that was tried."""
    n, depths = len(distinct(records, "seed")), distinct(records, "depth")
    reached = [
        Points.over_seeds(arm, {f"ResNet-{depth}": accuracies(records, arm=arm, depth=depth).values()
                                for depth in depths})
        for arm in ARMS
    ]  # fmt: skip
    rates = [
        Curve.over_seeds(arm, {lr: values(records, "validation", arm=arm, depth=DEPTH, lr=lr)
                               for lr in distinct(records, "lr", arm=arm, depth=DEPTH)})
        for arm in ARMS
    ]  # fmt: skip
    chosen = ", ".join(
        f"{words} {rate(best_rate(records, arm=arm, depth=DEPTH))}" for arm, words in ARMS.items()
    )
    gap = accuracies(records, arm="batch", depth=DEPTH)
    best = mean_interval(gap.values())
    return [
        Chart(
            "accuracy",
            f"Only the batch norms against only the output layer: {points(_lead(records, DEPTH))}",
            f"Test accuracy at each arm's best rate: mean over {seeds(n)} with 95% t intervals.",
            [Panel(reached, Axis("network"), Axis("test accuracy", percent=True))],
        ),
        Chart(
            "rates",
            f"At its best rate, training only the batch norms reaches {percent(None if best is None else best.mean)}",
            f"Validation accuracy of ResNet-{DEPTH} at every rate tried: mean over {seeds(n)} with 95% t intervals. "
            f"Chosen: {chosen}.",
            [Panel(rates, Axis("learning rate", log=True), Axis("validation accuracy", percent=True))],
        ),
    ]


EXPERIMENT = Experiment(
    number=20,
    name="only-batch-norm",
    title="How far does a network get when only its batch norms are trained?",
    claim="A residual network of random weights learns much when only the weight and bias of its batch norms are "
    "trained, more than when only its output layer is.",
    source=Source(
        "J. Frankle, D. J. Schwab, A. S. Morcos, Training BatchNorm and Only BatchNorm, ICLR 2021",
        "https://arxiv.org/abs/2003.00152",
    ),
    published="CIFAR-10, only batch norm trained: ResNet-14 48%, ResNet-110 69.5%, ResNet-866 82%.",
    method=f"ResNet-{DEPTH} with {WIDTH}, {2 * WIDTH} and {4 * WIDTH} channels (full also ResNet-26), digits at 8x8, "
    f"batch {BATCH_SIZE}, SGD with momentum {MOMENTUM:g} and a rate that falls in a straight line, 150 steps quick "
    "and 250 full. Arms share first weights and batches. Batch norm's weights start at 1, where the paper draws them. "
    f"The rate is chosen by validation accuracy for each arm: all weights from {RATES['all']}, batch norms "
    f"{RATES['batch']}, output layer {RATES['head']}. 6 seeds quick and 8 full, because the interval over the 3 tried "
    "first was too wide to decide; those 3 are among them.",
    criterion=f"The test accuracy of ResNet-{DEPTH} with only the batch norms trained minus that with only the output "
    f"layer trained, paired by seed: lower end of the 95% interval at least {100 * LEAST:g} points.",
    does_not_show="How it grows with depth up to hundreds of layers, on images of the world: the digits are easy. "
    "What is trained is not equal in number, and the batch norms stand in every layer, the output in one.",
    arms=ARMS,
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(35.0, 200.0),
    seeds=(6, 8),
    uses_data=True,
)  # fmt: skip
