"""1. Does a network train faster with batch norm, and do the inputs of its sigmoids stay put?

Ioffe and Szegedy begin with three hidden layers of 100 sigmoids on binary digits: with batch norm the net learns
sooner, and the distribution of what arrives at a sigmoid moves less while it learns. Their rate is not printed. Here
both nets train at 0.5, where the plain one gets to the target at all; what each does at a rate of its own choosing is
run as well, since a part of any lead at one rate is the choice of the rate.

The drift of a sigmoid's input is the way its median goes, between its lowest and highest place over the training. The
paper draws one unit; here it is averaged over all units of the last hidden layer, so that no unit is picked.
"""

from collections.abc import Sequence
from typing import Any

from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.records.charts import Axis, Chart, Curve, Panel, Points
from batchnorm.records.claim import Source
from batchnorm.records.estimates import paired_ratio
from batchnorm.records.intervals import Interval
from batchnorm.records.selection import distinct, seed_values, select, values
from batchnorm.records.store import Line
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import percent, plain_interval, seeds

__all__ = ["EXPERIMENT"]

TARGET, RATE, STEPS = 0.9, 0.5, 3000
FASTER, STEADIER, SHARE = 5.0, 3.0, 0.8
BATCH_SIZE, EVERY, LOOKS = 60, 20, 30
DARK = 7.4 / 16  # of the range of a pixel: the digits count to 16, and more than 7 is ink
LAST = "hidden.2.activation"
ARMS = {"none": "no normalization", "batch": "batch norm"}


def plan(scale: Scale) -> list[Task]:
    """Both nets at the rate of the criterion; at other rates too, in a quick survey for three seeds and fewer steps."""
    rates = scale.pick((0.2, 5.0, 10.0), (0.1, 0.2, 1.0, 2.0, 5.0, 10.0, 20.0))
    tasks = []
    for seed in range(scale.seeds):
        for lr in (RATE, *rates) if seed < scale.pick(3, scale.seeds) else (RATE,):
            steps = STEPS if lr == RATE else scale.pick(2000, STEPS)
            tasks += [Task.of(arm, seed, lr=lr, steps=steps, data=scale.data) for arm in ARMS]
    return tasks


def run(task: Task) -> list[dict[str, Any]]:
    """Train one net: accuracy and percentiles on the way, then the steps to the target and the drift.

    At other rates than the criterion's only the steps to the target are wanted, and the training ends there.
    """
    import torch

    from batchnorm import probes
    from batchnorm.lab.data import cached
    from batchnorm.lab.digits import native
    from batchnorm.lab.loop import evaluate, fit
    from batchnorm.lab.models import sigmoid_net
    from batchnorm.lab.splits import Split

    data = cached(task["data"])

    def binary(split: Split) -> Split:
        x = native(data.name, split).x
        pixels = x if data.scaling is None else torch.from_numpy(data.scaling.undo(x))
        return Split((pixels.mean(1) > DARK).float().flatten(1), split.y)

    train, test = binary(data.train), binary(data.test)
    torch.manual_seed(task.seed)
    net = sigmoid_net(task.arm, inputs=train.x.shape[1], num_classes=data.num_classes)
    steps, arrived = task["steps"], None
    records: list[dict[str, Any]] = []
    medians = []

    def look(step: int) -> None:
        with probes.batch_statistics(net):
            [seen] = probes.activations(net, test.x, [LAST], measure=_percentiles)
        assert seen.input is not None
        medians.append(seen.input[1])
        low, middle, high = seen.input[:, 0].tolist()
        records.append({"step": step, "accuracy": evaluate(net, test).accuracy,
                        "low": low, "median": middle, "high": high})  # fmt: skip

    def after(step: int) -> bool:
        nonlocal arrived
        if arrived is None and step % EVERY == 0 and evaluate(net, test).accuracy >= TARGET:
            arrived = step
        if whole and step % max(1, steps // LOOKS) == 0:
            look(step)
        return arrived is not None and not whole

    if whole := task["lr"] == RATE:
        look(0)
    found = fit(net, train, lr=task["lr"], steps=steps, batch_size=BATCH_SIZE, seed=task.seed, after=after)
    end: dict[str, Any] = {"arrived": arrived}
    if whole and not found.diverged:
        places = torch.stack(medians)
        end |= {"drift": (places.amax(0) - places.amin(0)).mean().item(), "final": records[-1]["accuracy"]}
    return [*records, end]


def _percentiles(values: Any) -> Any:
    """The percentiles of each unit over the samples: (3, units)."""
    import torch

    from batchnorm import probes

    return torch.stack([probes.percentiles(unit) for unit in values.unbind(1)], dim=1)


def verdict(records: Sequence[Line]) -> Verdict:
    """How often the steps and the drift at the common rate meet their bounds, seed by seed."""
    ends = [line for line in records if "arrived" in line]
    steps = {arm: _arrivals(ends, arm, RATE) for arm in ARMS}
    drift = {arm: seed_values(ends, "drift", arm=arm, lr=RATE) for arm in ARMS}
    n = len(steps["batch"])
    most = max((line["steps"] for line in select(ends, lr=RATE)), default=STEPS)
    faster = sum(_slower(steps["none"][seed] or most, steps["batch"][seed]) for seed in steps["batch"])
    further = [(drift["none"][seed], drift["batch"][seed]) for seed in drift["batch"]]
    steadier = sum(
        without is not None and own is not None and without >= STEADIER * own for without, own in further
    )
    ratio, drifts = (paired_ratio(each["none"], each["batch"]) for each in (steps, drift))
    never = [sum(value is None for value in steps[arm].values()) for arm in ARMS]
    lost = f"; without, {never[0]} of {n} never got there, with it {never[1]}" if any(never) else ""
    checks = [
        Check(f"steps to {TARGET:.0%} at rate {RATE:g}: at least {FASTER:g} times as many without, in "
              f"{SHARE:.0%} of seeds", f"{faster} of {n} seeds; {plain_interval(ratio)} times{lost}",
              faster >= SHARE * n),
        Check(f"drift of the medians: at least {STEADIER:g} times as far without, in {SHARE:.0%} of seeds",
              f"{steadier} of {n} seeds; {plain_interval(drifts)} times", steadier >= SHARE * n),
    ]  # fmt: skip
    tuned = _tuned(ends)
    finding = (
        f"At rate {RATE:g} it took {plain_interval(ratio)} times as many steps to {TARGET:.0%} test accuracy "
        f"without batch norm as with it ({seeds(n)}{lost}), and the medians of the last sigmoids' inputs drifted "
        f"{plain_interval(drifts)} times as far. Each at the best of its rates "
        f"({_rate(ends, 'none')} without, {_rate(ends, 'batch')} with), it took {plain_interval(tuned)} times the "
        "steps."
    )
    gone = tuned is None or tuned.low is None or tuned.low <= 1
    surprise = (
        f"With its own learning rate tuned, the plain net was not surely slower: {plain_interval(tuned)} times the "
        "steps."
        if gone and ratio is not None and ratio.mean > 1
        else ""
    )
    return Verdict.of(
        checks, ratio, unit="times the steps without batch norm", finding=finding, surprise=surprise
    )


def _arrivals(ends: Sequence[Line], arm: str, lr: float | None) -> dict[int, float | None]:
    return seed_values(ends, "arrived", arm=arm, lr=lr)


def _slower(least: float, own: float | None) -> bool:
    """Whether `least` steps, which the plain net needs at least, are enough times those with batch norm."""
    return own is not None and least >= FASTER * own


def _best(ends: Sequence[Line], arm: str) -> float | None:
    """The rate with the fewest steps on average over the seeds that all rates have, if all of them arrive."""
    shared = set.intersection(*(set(_arrivals(ends, arm, lr)) for lr in distinct(ends, "lr", arm=arm)))
    means = {}
    for lr in distinct(ends, "lr", arm=arm):
        found = [value for seed, value in _arrivals(ends, arm, lr).items() if seed in shared]
        numbers = [value for value in found if value is not None]
        if len(numbers) == len(found):
            means[lr] = sum(numbers) / len(numbers)
    return min(means, key=lambda lr: (means[lr], lr), default=None)


def _rate(ends: Sequence[Line], arm: str) -> str:
    best = _best(ends, arm)
    return "no rate got there" if best is None else f"{best:g}"


def _tuned(ends: Sequence[Line]) -> Interval | None:
    best = {arm: _best(ends, arm) for arm in ARMS}
    if None in best.values():
        return None
    return paired_ratio(*(_arrivals(ends, arm, best[arm]) for arm in ARMS))


def figures(records: Sequence[Line]) -> list[Chart]:
    """Accuracy over the steps, the percentiles of one sigmoid's input, and the steps needed at each rate."""
    ends = [line for line in records if "arrived" in line]
    lines = [line for line in records if "step" in line and line["lr"] == RATE]
    n, at = len(select(ends, arm="batch", lr=RATE)), distinct(lines, "step")
    curves = [
        Curve.over_seeds(
            arm, {step: values(lines, "accuracy", arm=arm, step=step) for step in at}, label=words
        )
        for arm, words in ARMS.items()
    ]
    first = select(lines, seed=0)
    reach = (min(line["low"] for line in first), max(line["high"] for line in first))
    spans = []
    for arm, words in ARMS.items():
        one = select(first, arm=arm)
        median, low, high = ([line[field] for line in one] for field in ("median", "low", "high"))
        span = Curve(arm, [line["step"] for line in one], median, low, high, label=words)
        spans.append(
            Panel([span], Axis("optimizer steps"), Axis("input of a sigmoid", range=reach), title=words)
        )
    drift = [seed_values(ends, "drift", arm=arm, lr=RATE) for arm in ARMS]
    needed = [
        Points.over_seeds(
            arm, {lr: values(ends, "arrived", arm=arm, lr=lr) for lr in distinct(ends, "lr")}, label=words
        )
        for arm, words in ARMS.items()
    ]
    final = [percent(_mean(values(ends, "final", arm=arm, lr=RATE))) for arm in ARMS]
    return [
        Chart(
            "accuracy",
            f"Without batch norm the net ends at {final[0]}, with it at {final[1]}",
            f"Test accuracy at rate {RATE:g}: mean of {seeds(n)} with 95% t intervals.",
            [Panel(curves, Axis("optimizer steps"), Axis("test accuracy", range=(0.0, 1.05), percent=True))],
        ),
        Chart(
            "percentiles",
            "The median of a last sigmoid's input moves "
            f"{plain_interval(paired_ratio(drift[0], drift[1]))} times as far without batch norm",
            "Line: median of the input of the first unit of the last hidden layer over the test samples; band: its "
            f"15th to 85th percentile, no interval. Seed 0, rate {RATE:g}, batch norm with the statistics of these "
            f"samples. The ratio in the title is over all units and {seeds(n)}.",
            spans,
        ),
        Chart(
            "rates",
            f"Each at its best rate, the plain net takes {plain_interval(_tuned(ends))} times the steps",
            f"Steps to {TARGET:.0%} test accuracy, looked at every {EVERY}; mean over the seeds that got there, "
            f"with 95% t intervals. Rate {RATE:g} has {seeds(n)}, others {seeds(_others(ends))}.",
            [Panel(needed, Axis("learning rate", log=True), Axis(f"steps to {TARGET:.0%}", log=True))],
        ),
    ]


def _others(ends: Sequence[Line]) -> int:
    return max(
        (len(select(ends, arm="batch", lr=lr)) for lr in distinct(ends, "lr") if lr != RATE), default=0
    )


def _mean(numbers: Sequence[float | None]) -> float | None:
    known = [value for value in numbers if value is not None]
    return sum(known) / len(known) if known else None


EXPERIMENT = Experiment(
    number=1,
    name="faster-training",
    title="Does a network train faster with batch norm, and do the inputs of its sigmoids stay put?",
    claim="Batch norm makes a network of sigmoids learn in fewer steps, and the distribution of what arrives at a "
    "sigmoid moves less while it learns.",
    source=Source(
        "S. Ioffe, C. Szegedy, Batch Normalization, ICML 2015, figure 1", "https://arxiv.org/abs/1502.03167"
    ),
    published="MNIST, 50,000 steps: about 0.98 with and 0.965 to 0.97 without, drawn; the percentiles of one input "
    "stay put.",
    method=f"Three layers of 100 sigmoids, weights N(0, 0.1^2), batch {BATCH_SIZE}, SGD, {STEPS} steps on binary "
    "images: the 8x8 digits, ink where a pixel has more than 7 of 16. Both nets start from the same weights and see "
    f"the same batches at rate {RATE:g}, which the paper leaves open; larger and smaller rates are tried for both. "
    "The drift is the range of the median of a sigmoid's input over the training, averaged over the last hidden layer.",
    criterion=f"At the same rate, steps to {TARGET:.0%} test accuracy at least {FASTER:g} times as many, and "
    f"drift at least {STEADIER:g} times as far without batch norm, each in {SHARE:.0%} of seeds.",
    does_not_show="The digits are small and easy. Drift is measured in the sigmoid's own units, and that it is "
    "smaller does not say that it is why the net learns faster (claim 5). At rates that suit each net the lead is "
    "another one.",
    arms=ARMS,
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(75.0, 110.0),
    seeds=(10, 10),
    uses_data=True,
)  # fmt: skip
