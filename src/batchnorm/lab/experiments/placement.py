"""8. Does batch norm belong before or after the activation, and does it make the choice of activation matter less?

Ioffe and Szegedy put batch norm before the activation. Mishkin's CaffeNet did better with it behind, and his GoogLeNet
did worse, so the sign is measured here and not assumed. What his tables have in common is that with batch norm it
matters less which activation a network has: that is what is judged.

Each activation runs without batch norm, and with it before and behind, without and with weight and bias. Every one of
these has its learning rate chosen for itself, and starts from LSUV's weights as the networks of the tables did.
"""

from collections.abc import Sequence
from typing import Any

from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.lab.tuned import accuracies, best_rate
from batchnorm.records.charts import Axis, Chart, Panel, Points
from batchnorm.records.claim import Source
from batchnorm.records.intervals import Interval, mean_interval, paired_difference
from batchnorm.records.selection import distinct
from batchnorm.records.store import Line
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import percent, points, rate, seeds

__all__ = ["EXPERIMENT"]

ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "tanh", "sigmoid")
HIDDEN, LAYERS = 64, 4
BATCH_SIZE, MOMENTUM = 64, 0.9
RATES = (0.01, 0.05, 0.25)
ARMS = {
    "none": "no normalization",
    "before": "before the activation",
    "before-affine": "before, with weight and bias",
    "after": "after the activation",
    "after-affine": "after, with weight and bias",
}
PAIRS = (("before", "after"), ("before-affine", "after-affine"))


def plan(scale: Scale) -> list[Task]:
    """Every place with every activation at every rate."""
    return [
        Task.of(arm, seed, activation=activation, lr=lr, steps=scale.pick(120, 300), data=scale.data)
        for seed in range(scale.seeds)
        for activation in ACTIVATIONS
        for lr in RATES
        for arm in ARMS
    ]


def run(task: Task) -> list[dict[str, Any]]:
    """Train one network and take its accuracies at the end."""
    import torch

    from batchnorm.lab.data import cached
    from batchnorm.lab.digits import native
    from batchnorm.lab.loop import evaluate, fit
    from batchnorm.lab.models import construct, plain_batch_norm

    data = cached(task["data"])
    splits = {name: native(data.name, getattr(data, name)) for name in ("train", "validation", "test")}
    place, _, affine = task.arm.partition("-")
    norm: Any = "none" if task.arm == "none" else "batch" if affine else plain_batch_norm
    torch.manual_seed(task.seed)
    net = construct("mlp", norm, "after" if place == "after" else "before",
                    input_shape=tuple(splits["train"].x.shape[1:]), num_classes=data.num_classes,
                    hidden=(HIDDEN,) * LAYERS, activation=task["activation"])  # fmt: skip
    _unit_variance(net, splits["train"].x[:512])
    found = fit(net, splits["train"], lr=task["lr"], steps=task["steps"], batch_size=BATCH_SIZE, seed=task.seed,
                momentum=MOMENTUM, decay=True)  # fmt: skip
    return [
        {
            name: None if found.diverged else evaluate(net, split).accuracy
            for name, split in splits.items()
        }
    ]  # fmt: skip


def _unit_variance(net: Any, x: Any) -> None:
    """LSUV: orthogonal weights, divided layer by layer by the standard deviation of what they put out."""
    import torch
    from torch import nn

    from batchnorm import probes

    net.train()
    paths = [path for path, layer in net.named_modules() if isinstance(layer, nn.Linear)]
    for path in paths:
        nn.init.orthogonal_(net.get_submodule(path).weight)
        nn.init.zeros_(net.get_submodule(path).bias)
    for path in paths:
        [seen] = probes.activations(net, x, [path])
        assert seen.output is not None
        spread = seen.output.std(correction=0)
        with torch.no_grad():
            net.get_submodule(path).weight.div_(spread)


def _spreads(
    records: Sequence[Line], arm: str, activations: Sequence[str] = ACTIVATIONS
) -> dict[int, float | None]:
    """Seed to best minus worst accuracy of these activations; None where one of them has none."""
    found: dict[int, float | None] = {}
    each = [accuracies(records, arm=arm, activation=activation) for activation in activations]
    for seed in distinct(records, "seed"):
        numbers = [value for value in (one.get(seed) for one in each) if value is not None]
        found[seed] = max(numbers) - min(numbers) if len(numbers) == len(each) else None
    return found  # fmt: skip


def _shrinks(records: Sequence[Line], arm: str, activations: Sequence[str] = ACTIVATIONS) -> Interval | None:
    """The spread without batch norm minus that with it in this place, by seed."""
    return paired_difference(_spreads(records, "none", activations), _spreads(records, arm, activations))


def _narrower(shrinks: Interval | None, n: int) -> bool:
    return shrinks is not None and shrinks.n == n and shrinks.low is not None and shrinks.low > 0


def _after_minus_before(records: Sequence[Line], activation: str | None = None) -> Interval | None:
    """Accuracy after minus before, by seed: the mean over both kinds of batch norm and over the activations."""
    gains: dict[int, float | None] = {}
    for seed in distinct(records, "seed"):
        found = [
            _minus(
                accuracies(records, arm=after, activation=each).get(seed),
                accuracies(records, arm=before, activation=each).get(seed),
            )
            for before, after in PAIRS
            for each in ((activation,) if activation else ACTIVATIONS)
        ]
        numbers = [value for value in found if value is not None]
        gains[seed] = sum(numbers) / len(numbers) if len(numbers) == len(found) else None
    return mean_interval(gains.values())


def _minus(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value - base


def verdict(records: Sequence[Line]) -> Verdict:
    """By how much batch norm narrows the spread over activations in each of its places, and which place does better."""
    shrinks = {arm: _shrinks(records, arm) for arm in ARMS if arm != "none"}
    n = len(distinct(records, "seed"))
    checks = [
        Check(f"batch norm {ARMS[arm]}: best minus worst activation smaller than without, 95% interval of the "
              f"difference above 0", points(found),
              _narrower(found, n))
        for arm, found in shrinks.items()
    ]  # fmt: skip
    spread = {arm: mean_interval(_spreads(records, arm).values()) for arm in ("none", "before", "after")}
    sign = _after_minus_before(records)
    others = [each for each in ACTIVATIONS if each != "sigmoid"]
    rest = {
        arm: mean_interval(_spreads(records, arm, others).values()) for arm in ("none", "before", "after")
    }
    wide, narrow, narrower = (percent(None if each is None else each.mean) for each in spread.values())
    finding = (
        f"Between the best and the worst of {len(ACTIVATIONS)} activations lay {wide} of accuracy without batch norm, "
        f"{narrow} with it before and {narrower} with it after the activation, without weight and bias "
        f"({seeds(n)}); but for sigmoid "
        f"{', '.join(percent(None if each is None else each.mean) for each in rest.values())}. "
        f"After minus before was {points(sign)}."
    )
    said = []
    narrowed = {arm: _shrinks(records, arm, others) for arm in shrinks}
    if resting := [
        ARMS[arm] for arm in shrinks if _narrower(shrinks[arm], n) and not _narrower(narrowed[arm], n)
    ]:
        said.append(
            "That the spread is smaller rests on sigmoid for batch norm "
            f"{'; '.join(resting)}: among the other activations the interval of the difference does not lie above 0 "
            f"(after the activation: {points(narrowed['after'])})."
        )
    if sign is not None and sign.high is not None and sign.high < 0:
        said.append(
            f"Batch norm before the activation did better here: after minus before is {points(sign)}, as in the "
            "source's GoogLeNet and against its CaffeNet."
        )
    return Verdict.of(
        checks, shrinks["after"], unit="of accuracy, spread over activations without batch norm minus with it after",
        finding=finding, surprise=" ".join(said),
    )  # fmt: skip


def figures(records: Sequence[Line]) -> list[Chart]:
    """Accuracy by activation and place, and after minus before."""
    n = len(distinct(records, "seed"))
    reached = [
        Points.over_seeds(
            arm, {each: accuracies(records, arm=arm, activation=each).values() for each in ACTIVATIONS}
        )
        for arm in ARMS
    ]
    gains = [_after_minus_before(records, each) for each in ACTIVATIONS]
    difference = Points(
        "after",
        ACTIVATIONS,
        [_in_points(None if each is None else each.mean) for each in gains],
        [_in_points(None if each is None else each.low) for each in gains],
        [_in_points(None if each is None else each.high) for each in gains],
        label="after minus before",
    )
    rates = "; ".join(
        f"{ARMS[arm]} {', '.join(rate(best_rate(records, arm=arm, activation=each)) for each in ACTIVATIONS)}"
        for arm in ARMS
    )
    return [
        Chart(
            "accuracy",
            f"Spread over activations without batch norm minus with it after: {points(_shrinks(records, 'after'))}",
            f"Test accuracy at the best rate of each: mean over {seeds(n)} with 95% t intervals. Rates in the order "
            f"of the activations: {rates}.",
            [Panel(reached, Axis("activation"), Axis("test accuracy", percent=True))],
        ),
        Chart(
            "after-minus-before",
            f"After minus before the activation: {points(_after_minus_before(records))}",
            "Test accuracy with batch norm after minus before the activation, paired by seed, mean of batch norm "
            f"without and with weight and bias: mean over {seeds(n)} with 95% t intervals. Above 0, after is better.",
            [Panel([difference], Axis("activation"), Axis("difference of test accuracy (points)"))],
        ),
    ]


def _in_points(value: float | None) -> float | None:
    return None if value is None else 100 * value


EXPERIMENT = Experiment(
    number=8,
    name="placement",
    title="Does batch norm belong before or after the activation, and does the activation matter less with it?",
    claim="With batch norm it matters less which activation a network has; whether it does better before or after the "
    "activation depends on the network.",
    source=Source(
        "D. Mishkin, caffenet-benchmark; D. Mishkin, N. Sergievskiy, J. Matas, Systematic evaluation of CNN advances "
        "on the ImageNet, 2017",
        "https://github.com/ducha-aiki/caffenet-benchmark/blob/master/batchnorm.md",
    ),
    published="CaffeNet, ImageNet at 128 pixels, ReLU: none 0.471, before 0.474 (with weight and bias 0.478), after "
    "0.499 (0.493). Over activations from 0.401 to 0.488 without batch norm and from 0.448 to 0.503 with it after. "
    "GoogLeNet: none 0.619, before 0.603 (0.607), after 0.596 (0.584).",
    method=f"Fully connected, {LAYERS} hidden layers of {HIDDEN}, digits at 8x8, LSUV's weights, batch {BATCH_SIZE}, "
    f"SGD with momentum {MOMENTUM:g} and a rate that falls in a straight line, 120 steps quick and 300 full. "
    f"Activations: {', '.join(ACTIVATIONS)}. For each activation and place the rate is chosen from "
    f"{', '.join(f'{each:g}' for each in RATES)} by the mean validation accuracy. Arms share batches and orthogonal "
    "weights.",
    criterion="The accuracy of the best activation minus that of the worst is smaller with batch norm than without, "
    "paired by seed, 95% interval of the difference above 0, in each place (before, after) without and with weight "
    "and bias.",
    does_not_show="Convolutional networks on photographs, where the tables come from. The spread over activations "
    "depends on which are tried; one that learns slowly without batch norm can decide it, so the finding says it "
    "without sigmoid too. In a short run the spread is one of speed: what has not learned yet counts as worse.",
    arms=ARMS,
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(40.0, 200.0),
    seeds=(5, 10),
    uses_data=True,
)  # fmt: skip
