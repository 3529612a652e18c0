"""5. Does batch norm work because it reduces internal covariate shift?

Two things speak against it in Santurkar et al. First, noise behind every batch norm that shifts and scales each unit
anew at each step makes the distributions of layers' inputs less stable than they are without batch norm, and the
network trains as well as with batch norm nonetheless. Second, covariate shift seen as the change of a layer's gradient,
when the layers before it take their step, is not smaller with batch norm: in a deep linear network it is larger by far.

The deep linear network is run at two rates; the claim is judged at the smaller one, where the plain network's gradients
hardly turn. As in `smoother-landscape`, the paper leaves open how large the map A is that it fits, and two are run.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.records.charts import Axis, Chart, Curve, Panel, Points
from batchnorm.records.claim import Source
from batchnorm.records.estimates import geometric_mean, median_interval, paired_ratio
from batchnorm.records.intervals import Interval, mean_interval, paired_difference
from batchnorm.records.selection import distinct, seed_values, select, values
from batchnorm.records.store import Line
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import percent_interval, plain_interval, points, rate, seeds

__all__ = ["EXPERIMENT"]

WITHIN = 0.02
LEAST_COSINE, LEAST_SHIFT = 0.99, 100.0
FAST, SLOW = 1e-6, 1e-7
GLOROT, UNIT = 0.1**0.5, 1.0  # standard deviations of the entries of A
GROUPS = ((GLOROT, SLOW), (UNIT, SLOW), (GLOROT, FAST))
# A matrix and the norm behind it make up a layer; the last matrix has none.
LAYERS: list[str | tuple[str, ...]] = [*((f"linear{n}", f"norm{n}") for n in range(1, 25)), "linear25"]
RATES = (0.03, 0.1, 0.3)
DRIFTS = {"mean_drift": "means", "var_drift": "variances"}
BATCH, EVERY, PROBE = 32, 20, 256
LINEAR = {"none": "no normalization", "batch": "batch norm"}
ARMS = {**LINEAR, "noisy": "batch norm with noise behind it"}


def plan(scale: Scale) -> list[Task]:
    """The deep linear network for each map and rate, and the VGG-like one with its rates to choose from."""
    tasks = []
    for seed in range(scale.seeds):
        for spread, lr in GROUPS:
            settings = {"net": "linear", "spread": spread, "lr": lr, "steps": scale.pick(500, 3000)}
            tasks += [Task.of(arm, seed, **settings) for arm in LINEAR]
        for lr in RATES:
            settings = {"net": "vgg", "lr": lr, "steps": scale.pick(200, 600), "data": scale.data}
            tasks += [Task.of(arm, seed, **settings) for arm in ARMS]
    return tasks


def run(task: Task) -> list[dict[str, Any]]:
    """Train; measure shift on the way, of gradients in the linear network, of moments in the other."""
    return _linear(task) if task["net"] == "linear" else _vgg(task)


def _linear(task: Task) -> list[dict[str, Any]]:
    from batchnorm.lab.deep_linear import descend, problem
    from batchnorm.probes import covariate_shift

    steps, lr = task["steps"], task["lr"]
    loss = problem(task.seed, task["spread"])
    records: list[dict[str, Any]] = []

    def look(step: int, net: Any) -> None:
        found = covariate_shift(net, loss, LAYERS, lr=lr)
        later = found[1:]  # nothing lies before the first layer
        records.append(
            {"step": step, "cosine": [each.cosine for each in later], "shift": [each.shift for each in later]}
        )

    look_at = {min(10, steps), *(steps * part // 8 for part in range(9))}
    descend(task.arm, loss, lr=lr, steps=steps, seed=task.seed, look_at=look_at, look=look)
    return records


def _vgg(task: Task) -> list[dict[str, Any]]:
    from batchnorm.lab.data import cached
    from batchnorm.lab.kaiming_vgg import NORMS, kaiming_vgg
    from batchnorm.lab.loop import evaluate, fit
    from batchnorm.probes import moments_by_depth

    data = cached(task["data"])
    net = kaiming_vgg(task.arm, data, task.seed)
    seen: list[list[Any]] = []

    def look(step: int) -> None:
        if step % EVERY == 0:
            net.train()  # where the noise is
            found = moments_by_depth(net, data.train.x[:PROBE], NORMS)
            seen.append([each.output for each in found])

    look(0)
    trained = fit(
        net, data.train, lr=task["lr"], steps=task["steps"], batch_size=BATCH, seed=task.seed, after=look
    )
    drifts = [_drift(before, after) for before, after in pairwise(seen)]
    scores = (
        [None, None]
        if trained.diverged
        else [evaluate(net, part).accuracy for part in (data.validation, data.test)]
    )
    last = {"validation": scores[0], "test": scores[1]}
    return [*({"step": EVERY * (n + 1), "mean_drift": mean, "var_drift": var} for n, (mean, var) in enumerate(drifts)),
            {"step": None, **last}]  # fmt: skip


def _drift(before: Sequence[Any], after: Sequence[Any]) -> tuple[float, float]:
    """How far means moved, in standard deviations, and variances, in logarithms: mean over units, then layers."""
    tiny = 1e-12  # a unit may be constant
    means, variances = [], []
    for old, new in zip(before, after, strict=True):
        deviation = old.var.clamp_min(tiny).sqrt()
        means.append(((new.mean - old.mean).abs() / deviation).mean().item())
        variances.append((new.var.clamp_min(tiny) / old.var.clamp_min(tiny)).log().abs().mean().item())
    return sum(means) / len(means), sum(variances) / len(variances)


def verdict(records: Sequence[Line]) -> Verdict:
    """Accuracies at each arm's best rate, drift there; and the shift of gradients at the smaller rate."""
    n = len(distinct(records, "seed"))
    best = {arm: _best(records, arm) for arm in ARMS}
    tests = {arm: seed_values(_last(records, arm, best[arm]), "test") for arm in ARMS}
    to_batch, to_none = (paired_difference(tests["noisy"], tests[arm]) for arm in ("batch", "none"))
    drifts = {field: paired_ratio(_drifts(records, "noisy", best["noisy"], field),
                                  _drifts(records, "none", best["none"], field))
              for field in DRIFTS}  # fmt: skip
    checks = [
        Check(f"test accuracy with noisy batch norm at most {100 * WITHIN:g} points below batch norm's (95% interval)",
              points(to_batch), _low(to_batch, n) >= -WITHIN),
        Check("test accuracy with noisy batch norm above that without batch norm (95% interval)", points(to_none),
              _low(to_none, n) > 0),
    ]  # fmt: skip
    checks += [
        Check(f"{words} of units drift more with noisy batch norm than without (ratio, 95% interval above 1)",
              plain_interval(drifts[field]), _low(drifts[field], n) > 1)
        for field, words in DRIFTS.items()
    ]  # fmt: skip
    cosines, ratios = {}, {}
    for group in GROUPS:
        cosines[group] = median_interval(list(_medians(records, "none", group, "cosine").values()))
        ratios[group] = paired_ratio(_medians(records, "batch", group, "shift"),
                                     _medians(records, "none", group, "shift"))  # fmt: skip
    for group in GROUPS[:2]:
        cosine, ratio = cosines[group], ratios[group]
        checks += [
            Check(f"{_words(group)}: median cosine without batch norm at least {LEAST_COSINE:g}",
                  plain_interval(cosine), cosine is not None and cosine.n == n and cosine.mean >= LEAST_COSINE),
            Check(f"{_words(group)}: shift with batch norm at least {LEAST_SHIFT:g} times that without",
                  plain_interval(ratio), ratio is not None and ratio.n == n and ratio.mean >= LEAST_SHIFT),
        ]  # fmt: skip
    noisy = percent_interval(mean_interval(tests["noisy"].values()))
    mean, var = (plain_interval(drifts[field]) for field in DRIFTS)
    finding = (
        f"With noise behind every batch norm the test accuracy was {noisy}, {points(to_batch)} against batch norm and "
        f"{points(to_none)} against none ({seeds(n)}), while means of units drifted {mean} times and variances {var} "
        f"times as far as without batch norm. In the deep linear network at rate {SLOW:g}, the step of the layers "
        f"before changed a gradient {plain_interval(ratios[GROUPS[0]])} times as much with batch norm (A of variance "
        f"1/10; {plain_interval(ratios[GROUPS[1]])} times for variance 1)."
    )
    return Verdict.of(
        checks,
        ratios[GROUPS[0]],
        unit="times the change of a gradient",
        finding=finding,
        contradiction=_contradiction(to_none, drifts),
    )


def _contradiction(to_none: Interval | None, drifts: dict[str, Interval | None]) -> str:
    """What an interval says against the paper without doubt."""
    said = []
    if _below(to_none, 0):
        said.append(
            f"test accuracy with noisy batch norm was below that without batch norm ({points(to_none)})"
        )
    said += [
        f"{words} of units drifted less with noisy batch norm than without ({plain_interval(drifts[field])} times)"
        for field, words in DRIFTS.items()
        if _below(drifts[field], 1)
    ]
    text = ", and ".join(said)
    return f"{text[0].upper()}{text[1:]}." if said else ""


def _below(found: Interval | None, bound: float) -> bool:
    return found is not None and found.high is not None and found.high < bound


def _low(found: Interval | None, n: int) -> float:
    """The interval's lower end, below every bound where a seed has no number."""
    return found.low if found is not None and found.n == n and found.low is not None else float("-inf")


def _last(records: Sequence[Line], arm: str, lr: float) -> list[Line]:
    return select(records, net="vgg", arm=arm, lr=lr, step=None)


def _best(records: Sequence[Line], arm: str) -> float:
    """The rate with the best mean accuracy on the validation split; one at which a seed diverged is the worst."""

    def accuracy(lr: float) -> float:
        found = values(_last(records, arm, lr), "validation")
        return (
            -1.0 if None in found else sum(value for value in found if value is not None) / max(len(found), 1)
        )

    return max(RATES, key=accuracy)


def _drifts(records: Sequence[Line], arm: str, lr: float, field: str) -> dict[int, float | None]:
    """Mean over the training, a number a seed."""
    lines = [line for line in select(records, net="vgg", arm=arm, lr=lr) if line["step"] is not None]
    found = {seed: mean_interval(values(lines, field, seed=seed)) for seed in distinct(lines, "seed")}
    return {seed: None if each is None else each.mean for seed, each in found.items()}


def _medians(
    records: Sequence[Line], arm: str, group: tuple[float, float], field: str
) -> dict[int, float | None]:
    """Median over layers and over the training, a number a seed."""
    lines = select(records, net="linear", arm=arm, spread=group[0], lr=group[1])
    found = {}
    for seed in distinct(lines, "seed"):
        everything = [value for line in select(lines, seed=seed) for value in line[field]]
        middle = median_interval(everything)
        found[seed] = None if middle is None else middle.mean
    return found


def _words(group: tuple[float, float]) -> str:
    return f"deep linear network, A of variance {group[0] ** 2:.2g}, rate {group[1]:g}"


def figures(records: Sequence[Line]) -> list[Chart]:
    """Accuracy over the rate, drift over the training, and how gradients change in the deep linear network."""
    n = seeds(len(distinct(records, "seed")))
    best = {arm: _best(records, arm) for arm in ARMS}
    accuracy = [
        Points.over_seeds(arm, {lr: values(_last(records, arm, lr), "test") for lr in RATES}) for arm in ARMS
    ]
    chosen = ", ".join(f"{rate(best[arm])} ({words})" for arm, words in ARMS.items())
    drift = paired_ratio(*(_drifts(records, arm, best[arm], "mean_drift") for arm in ("noisy", "none")))
    shift = paired_ratio(*(_medians(records, arm, GROUPS[0], "shift") for arm in ("batch", "none")))
    cosine = median_interval(list(_medians(records, "none", GROUPS[0], "cosine").values()))
    return [
        Chart("accuracy", f"The best rates on the validation split are {chosen}",
              f"VGG-like network after training: mean over {n} with 95% t intervals; what diverged is left out.",
              [Panel(accuracy, Axis("learning rate", log=True), Axis("test accuracy", percent=True))]),
        Chart("drift", f"Means of units drift {plain_interval(drift)} times as far with noisy batch norm as without",
              f"Between two measurements {EVERY} steps apart, on the same {PROBE} samples in training mode, behind the "
              f"norms: mean over units and layers, at each arm's best rate, and over {n} with 95% t intervals.",
              [_over_training(records, best, "mean_drift", "shift of the mean (standard deviations)"),
               _over_training(records, best, "var_drift", "change of log variance")]),
        Chart("shift", f"Batch norm makes the gradients' change {plain_interval(shift)} times as large",
              "Norm of a gradient's change when the layers before it have moved: median over the 24 later layers, then "
              f"geometric mean over {n} with 95% t intervals.",
              [_layers(records, "shift", group) for group in GROUPS], height=300),
        Chart("cosine", f"The median cosine is {plain_interval(cosine)} without batch norm",
              f"Between a gradient and itself after the layers before it have moved: median over layers, mean over {n} "
              "with 95% t intervals.",
              [_layers(records, "cosine", group) for group in GROUPS], height=300),
    ]  # fmt: skip


def _over_training(records: Sequence[Line], best: dict[str, float], field: str, title: str) -> Panel:
    curves = []
    for arm, lr in best.items():
        lines = select(records, net="vgg", arm=arm, lr=lr)
        steps = distinct(lines, "step")
        curves.append(Curve.over_seeds(arm, {step: values(lines, field, step=step) for step in steps}))
    return Panel(curves, Axis("optimizer steps"), Axis(title))


def _layers(records: Sequence[Line], field: str, group: tuple[float, float]) -> Panel:
    curves = []
    for arm in LINEAR:
        lines = select(records, net="linear", arm=arm, spread=group[0], lr=group[1])
        steps = distinct(lines, "step")
        found: list[Interval | None] = []
        for step in steps:
            middles = [median_interval(line[field]) for line in select(lines, step=step)]
            numbers = [None if each is None else each.mean for each in middles]
            found.append(mean_interval(numbers) if field == "cosine" else geometric_mean(numbers))
        y, low, high = (
            [None if each is None else getattr(each, name) for each in found]
            for name in ("mean", "low", "high")
        )
        curves.append(Curve(arm, steps, y, low, high))
    y_axis = Axis("cosine") if field == "cosine" else Axis("||G - G'||", log=True)
    return Panel(
        curves, Axis("optimizer steps"), y_axis, title=f"Var A = {group[0] ** 2:.2g}, rate {group[1]:g}"
    )


EXPERIMENT = Experiment(
    number=5,
    name="covariate-shift",
    title="Does batch norm work because it reduces internal covariate shift?",
    claim="Batch norm does not work by reducing internal covariate shift: with more of it, added as noise, training is "
    "as good, and seen as a change of gradients, the shift is larger with batch norm.",
    source=Source(
        "S. Santurkar, D. Tsipras, A. Ilyas, A. Madry, How Does Batch Normalization Help Optimization?, 2018",
        "https://arxiv.org/abs/1805.11604",
    ),
    published="VGG on CIFAR-10: 83% with and 80% without batch norm, and as good with noise as with batch norm; almost "
    "no shift in the plain deep linear network.",
    method=f"A VGG-like network (six convolutions, He's weights, batch {BATCH}, 600 steps, quick 200) without, "
    f"with and with noisy batch norm, each at the best of {', '.join(map(rate, RATES))} on the validation split; drift "
    f"is how means (in standard deviations) and log variances behind the norms change in {EVERY} steps. And 25 "
    "matrices of 10x10, full-batch descent in float64 on 1000 Gaussian inputs (3000 steps, quick 500), A of variance "
    "1/10 and 1: a gradient before and after the layers before it took their step; medians over layers and the points "
    "of the training.",
    criterion=f"Noisy batch norm: test accuracy at most {100 * WITHIN:g} points below batch norm's and above that "
    "without (95% intervals), while means and variances drift more than without. Deep linear network at 1e-7, for both "
    f"maps: median cosine without batch norm at least {LEAST_COSINE:g}, shift with at least {LEAST_SHIFT:g} times that "
    "without.",
    does_not_show="What makes batch norm work. At 1e-6, shown beside it and not judged, gradients turn too. The norms "
    "of gradients differ between the networks, and the shift's ratio is not divided by them.",
    arms=ARMS,
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(130.0, 700.0),
    uses_data=True,
)
