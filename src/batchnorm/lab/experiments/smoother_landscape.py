"""4. Is the loss smoother along its gradient with batch norm?

At a point of the training, go along the gradient and look how much the loss varies there, how much the gradient
changes, and how fast: effective beta is the largest change of the gradient over the distance gone. Santurkar et al.
draw these for a VGG network and for a product of 25 matrices, where full-batch gradient descent leaves no noise.

The paper does not say how large the entries of the map A are that the matrices are to fit, and much hangs on it: with
variance 1/10, as Glorot's matrices have it, the losses after training are those of the paper; with variance 1 the plain
network runs at the edge of what its learning rate allows. So both are run, and each is judged.
"""

from collections.abc import Sequence
from typing import Any

from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.records.charts import Axis, Chart, Curve, Panel
from batchnorm.records.claim import Source
from batchnorm.records.estimates import geometric_mean, paired_ratio
from batchnorm.records.intervals import Interval, mean_interval
from batchnorm.records.selection import distinct, seed_values, select, values
from batchnorm.records.store import Line
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import number, plain_interval, seeds

__all__ = ["EXPERIMENT"]

MOST, LEAST = 0.5, 100.0
FAST, SLOW = 1e-6, 1e-7
GLOROT, UNIT = 0.1**0.5, 1.0  # standard deviations of the entries of A
GROUPS = ((GLOROT, FAST), (GLOROT, SLOW), (UNIT, FAST))
VGG_RATE, VGG_BATCH, VGG_EVERY, VGG_PROBE = 0.03, 32, 20, 256
ARMS = {"none": "no normalization", "batch": "batch norm"}


def plan(scale: Scale) -> list[Task]:
    """Both arms on the deep linear network, for each map and rate, and on the VGG-like one."""
    steps = {
        (GLOROT, FAST): scale.pick(1000, 10000),
        (GLOROT, SLOW): scale.pick(2000, 10000),
        (UNIT, FAST): scale.pick(1000, 3000),  # by then neither loss moves any more
    }
    tasks = []
    for seed in range(scale.seeds):
        for arm in ARMS:
            for spread, lr in GROUPS:
                tasks.append(Task.of(arm, seed, net="linear", spread=spread, lr=lr, steps=steps[spread, lr]))
            vgg = scale.pick(200, 600)
            tasks.append(Task.of(arm, seed, net="vgg", lr=VGG_RATE, steps=vgg, data=scale.data))
    return tasks


def run(task: Task) -> list[dict[str, Any]]:
    """Train, and probe the landscape on the way."""
    return _linear(task) if task["net"] == "linear" else _vgg(task)


def _linear(task: Task) -> list[dict[str, Any]]:
    from batchnorm.lab.deep_linear import descend, problem

    steps = task["steps"]
    early = {round(10 ** (power / 2)) for power in range(2, 9)}  # 10, 32, 100, ...: most happens early
    look_at = {step for step in early if step < steps} | {steps * part // 10 for part in range(11)}
    loss = problem(task.seed, task["spread"])
    records: list[dict[str, Any]] = []
    descend(
        task.arm, loss, lr=task["lr"], steps=steps, seed=task.seed, look_at=look_at,
        look=lambda step, net: records.append(_probe(step, net, loss, _spaced(0.01 * task["lr"], 30 * task["lr"]))),
    )  # fmt: skip
    return records


def _vgg(task: Task) -> list[dict[str, Any]]:
    from torch.nn.functional import cross_entropy

    from batchnorm.lab.data import cached
    from batchnorm.lab.kaiming_vgg import kaiming_vgg
    from batchnorm.lab.loop import fit

    data = cached(task["data"])
    net = kaiming_vgg(task.arm, data, task.seed)
    x, y = data.train.x[:VGG_PROBE], data.train.y[:VGG_PROBE]
    records: list[dict[str, Any]] = []

    def look(step: int) -> None:
        if step % VGG_EVERY == 0:
            net.train()
            reach = _spaced(task["lr"] / 2, 4 * task["lr"], 6)
            records.append(_probe(step, net, lambda model: cross_entropy(model(x), y), reach))

    look(0)
    fit(net, data.train, lr=task["lr"], steps=task["steps"], batch_size=VGG_BATCH, seed=task.seed, after=look)
    return records


def _spaced(low: float, high: float, count: int = 10) -> list[float]:
    return [low * (high / low) ** (place / (count - 1)) for place in range(count)]


def _probe(step: int, net: Any, loss: Any, reach: Sequence[float]) -> dict[str, Any]:
    from batchnorm.probes import gradient_predictiveness

    seen = gradient_predictiveness(net, loss, reach)
    low, high = seen.loss_range
    return {"step": step, "loss": seen.loss, "loss_low": low, "loss_high": high,
            "change_low": seen.change_range[0], "change_high": seen.change_range[1],
            "beta": seen.effective_beta}  # fmt: skip


def verdict(records: Sequence[Line]) -> Verdict:
    """Final losses and largest beta of the deep linear network; beta of the VGG-like one."""
    everywhere = distinct(records, "seed")
    losses = {group: _final(records, *group) for group in GROUPS}
    betas = {group: _largest(records, *group) for group in GROUPS}
    vgg = {field: _vgg_ratio(records, field) for field in ("beta", "loss_high", "change_high")}

    def whole(found: Interval | None) -> bool:
        return found is not None and found.n == len(everywhere)

    checks = [
        Check(f"{_words(*group)}: loss with batch norm at most {MOST:g} times that without",
              _counted(found, everywhere), found is not None and whole(found) and found.mean <= MOST)
        for group, found in losses.items()
    ]  # fmt: skip
    checks += [
        Check(f"{_words(*group)}: largest effective beta without batch norm at least {LEAST:g} times that with",
              _counted(betas[group], everywhere), whole(betas[group]) and _mean(betas[group]) >= LEAST)
        for group in GROUPS if group[1] == FAST
    ]  # fmt: skip
    beta = vgg["beta"]
    smoother = beta is not None and whole(beta) and beta.low is not None and beta.low > 1
    checks.append(
        Check("VGG-like network: effective beta without batch norm above that with (95% interval above 1)",
              _counted(beta, everywhere), smoother)
    )  # fmt: skip
    first = GROUPS[0]
    finding = (
        f"After training at rate {FAST:g} the deep linear network's loss with batch norm was "
        f"{plain_interval(losses[first])} times that without ({seeds(len(everywhere))}), and at {SLOW:g} "
        f"{plain_interval(losses[GROUPS[1]])} times. The largest effective beta without batch norm was "
        f"{plain_interval(betas[first])} times that with, for a map A of variance 1/10, and "
        f"{plain_interval(betas[GROUPS[2]])} times for one of variance 1; on the VGG-like network effective beta "
        f"without was {plain_interval(beta)} times that with, over the whole training."
    )
    return Verdict.of(
        checks, betas[first], unit="times the largest effective beta", finding=finding,
        contradiction=_contradiction(betas, beta),
    )  # fmt: skip


def _contradiction(betas: dict[tuple[float, float], Interval | None], vgg: Interval | None) -> str:
    """Where the landscape was rougher with batch norm, by an interval that leaves no doubt."""
    rougher = [_words(*group) for group, found in betas.items() if _below_one(found)]
    rougher += ["the VGG-like network"] if _below_one(vgg) else []
    if not rougher:
        return ""
    return f"Effective beta was larger with batch norm than without on: {'; '.join(rougher)}."


def _below_one(found: Interval | None) -> bool:
    return found is not None and found.high is not None and found.high < 1


def _mean(found: Interval | None) -> float:
    return 0.0 if found is None else found.mean


def _counted(found: Interval | None, everywhere: Sequence[int]) -> str:
    missing = len(everywhere) - (0 if found is None else found.n)
    return plain_interval(found) + (f" ({missing} of {seeds(len(everywhere))} diverged)" if missing else "")


def _words(spread: float, lr: float) -> str:
    return f"deep linear network, A of variance {spread**2:.2g}, rate {lr:g}"


def _final(records: Sequence[Line], spread: float, lr: float) -> Interval | None:
    """Loss with batch norm over that without, after the last step."""
    found = []
    for arm in ("batch", "none"):
        lines = select(records, net="linear", arm=arm, spread=spread, lr=lr)
        found.append(seed_values([line for line in lines if line["step"] == line["steps"]], "loss"))
    return paired_ratio(*found)


def _largest(records: Sequence[Line], spread: float, lr: float) -> Interval | None:
    """The largest effective beta without batch norm over that with, of all points of the training."""
    found = []
    for arm in ("none", "batch"):
        lines = select(records, net="linear", arm=arm, spread=spread, lr=lr)
        found.append(
            {
                seed: max(
                    (value for value in values(lines, "beta", seed=seed) if value is not None), default=None
                )
                for seed in distinct(lines, "seed")
            }
        )
    return paired_ratio(*found)


def _vgg_ratio(records: Sequence[Line], field: str) -> Interval | None:
    """A field without batch norm over that with: of each seed the geometric mean over the training."""
    found = []
    for arm in ("none", "batch"):
        lines = select(records, net="vgg", arm=arm)
        means = {seed: geometric_mean(values(lines, field, seed=seed)) for seed in distinct(lines, "seed")}
        found.append({seed: None if each is None else each.mean for seed, each in means.items()})
    return paired_ratio(*found)


def figures(records: Sequence[Line]) -> list[Chart]:
    """Loss, and the three bands, each on every network."""
    n = seeds(len(distinct(records, "seed")))
    first, last = GROUPS[0], GROUPS[2]
    beta = _vgg_ratio(records, "beta")
    bars = f"Geometric means over {n} with 95% t intervals."
    return [
        Chart("loss", f"The loss with batch norm ends at {plain_interval(_final(records, *first))} times that without",
              f"Deep linear network, squared error summed over samples. {bars}",
              [_over_seeds(records, "loss", *group) for group in GROUPS], height=300),
        Chart("beta", f"The largest effective beta without batch norm is {plain_interval(_largest(records, *first))} "
              f"times that with where A has variance 1/10, {plain_interval(_largest(records, *last))} where it has 1",
              "Largest change of the gradient over distance, along the gradient up to 30 learning rates (VGG-like: 4). "
              f"{bars}",
              [*(_over_seeds(records, "beta", *group) for group in GROUPS), _over_seeds(records, "beta")], height=300),
        Chart("loss-range", f"Along the gradient the loss reaches {plain_interval(_vgg_ratio(records, 'loss_high'))} "
              "times as high on the VGG-like network without batch norm as with",
              "Band: least and largest loss at 1/100 to 30 learning rates (VGG-like: 1/2 to 4); line: loss at the "
              f"point itself. Means over {n}.",
              [*(_band(records, "loss", *group) for group in GROUPS), _band(records, "loss")], height=300),
        Chart("gradient-change",
              f"Along the gradient, it changes {plain_interval(_vgg_ratio(records, 'change_high'))} times as much "
              f"on the VGG-like network without batch norm (effective beta: {number(_mean(beta))} times)",
              f"Band: least and largest change of the gradient at the same places, line: halfway. Means over {n}.",
              [*(_band(records, "change", *group) for group in GROUPS), _band(records, "change")], height=300),
    ]  # fmt: skip


def _lines(records: Sequence[Line], arm: str, group: tuple[float, ...]) -> list[Line]:
    if not group:
        return select(records, arm=arm, net="vgg")
    return select(records, arm=arm, net="linear", spread=group[0], lr=group[1])


def _title(group: tuple[float, ...]) -> str:
    return f"Var A = {group[0] ** 2:.2g}, rate {group[1]:g}" if group else "VGG-like"


def _over_seeds(records: Sequence[Line], field: str, *group: float) -> Panel:
    curves = []
    for arm in ARMS:
        lines = _lines(records, arm, group)
        steps = distinct(lines, "step")
        found = [geometric_mean(values(lines, field, step=step)) for step in steps]
        y, low, high = (
            [None if each is None else getattr(each, name) for each in found]
            for name in ("mean", "low", "high")
        )
        curves.append(Curve(arm, steps, y, low, high))
    axis = "squared error" if field == "loss" else "effective beta"
    return Panel(curves, Axis("optimizer steps"), Axis(axis, log=True), title=_title(group))


def _band(records: Sequence[Line], field: str, *group: float) -> Panel:
    curves = []
    for arm in ARMS:
        lines = _lines(records, arm, group)
        steps = distinct(lines, "step")
        low, high = (
            [_plain(mean_interval(values(lines, f"{field}_{end}", step=step))) for step in steps]
            for end in ("low", "high")
        )
        middle = [None if a is None or b is None else (a + b) / 2 for a, b in zip(low, high, strict=True)]
        if field == "loss":
            middle = [_plain(mean_interval(values(lines, "loss", step=step))) for step in steps]
        curves.append(Curve(arm, steps, middle, low, high))
    axis = "loss" if field == "loss" else "change of the gradient (norm)"
    return Panel(curves, Axis("optimizer steps"), Axis(axis, log=True), title=_title(group))


def _plain(found: Interval | None) -> float | None:
    return None if found is None else found.mean


EXPERIMENT = Experiment(
    number=4,
    name="smoother-landscape",
    title="Is the loss smoother along its gradient with batch norm?",
    claim="Batch norm makes the landscape smoother: along the gradient the loss varies less, and the gradient is more "
    "predictive.",
    source=Source(
        "S. Santurkar, D. Tsipras, A. Ilyas, A. Madry, How Does Batch Normalization Help Optimization?, 2018",
        "https://arxiv.org/abs/1805.11604",
    ),
    published="Deep linear network, read off the figures: loss 4.8e2 with and 1.7e3 without batch norm at rate 1e-6, "
    "7e2 and 4e3 at 1e-7; effective beta up to 2e6 with and 1e15 without.",
    method="25 matrices of 10x10 from Glorot's weights, ||W1..Wk x - A x||^2 summed over 1000 Gaussian inputs, "
    "full-batch gradient descent in float64. A is Gaussian: of variance 1/10, where the losses come out as published, "
    "at both rates (10000 steps; quick 1000 and 2000), and of variance 1 at 1e-6 (3000 steps; quick 1000). Probed at "
    "1/100 to 30 learning rates along the gradient. And a VGG-like network (six convolutions, He's weights, batch "
    f"{VGG_BATCH}) at rate {VGG_RATE:g} in both arms, since the paper too compares at one rate, probed at 1/2 to 4 "
    f"learning rates on {VGG_PROBE} training samples.",
    criterion=f"Deep linear network: the loss after training with batch norm is at most {MOST:g} times that without "
    "wherever it is run, at both rates for variance 1/10, and the largest effective beta without is at least "
    f"{LEAST:g} times that with at rate {FAST:g}, for both maps (geometric means over seeds); VGG-like network: the "
    "95% interval of effective beta without over that with lies above 1.",
    does_not_show="Why training is faster: smoothness is measured along the way that each network takes, at one rate, "
    "and a network that has stopped learning lies in a flat place. With full-batch descent beta near the step settles "
    "at about 2 / rate in whatever network still learns.",
    arms=ARMS,
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(110.0, 780.0),
    uses_data=True,
)
