"""18. Does a recurrent network with batch norm need a small gamma?

An LSTM whose gates and state are normalized at every time step sends its gradient back through as many tanhs as there
are steps. With gamma = 1 the normalized values reach where tanh is flat, and the gradient vanishes on its way, says the
paper, which starts at gamma = .1, where tanh is nearly linear. Here digits are read pixel by pixel, 64 steps, and the
norm of the loss's gradient for the state is followed from the last step back to the first, at the first weights.

The LSTM without norms is measured beside it: what a small gamma keeps is to be compared with what there was.

"Better" can be read in two ways. The criterion takes the one that the paper gives as its reason: more of the gradient
reaches the first step. With gamma = 1 the gradient may as well grow on its way back; then "nearer to the last step's"
is another reading, and the page says by the same records how that one comes out.
"""

import math
from collections.abc import Sequence
from typing import Any

from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.records.charts import Axis, Chart, Curve, Panel
from batchnorm.records.claim import Source
from batchnorm.records.estimates import geometric_mean, paired_ratio
from batchnorm.records.intervals import Interval
from batchnorm.records.selection import distinct, seed_values, select, values
from batchnorm.records.store import Line
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import number, plain_interval, seeds

__all__ = ["EXPERIMENT"]

LEAST = 10.0
SMALL, LARGE = 0.1, 1.0
GAMMAS = (SMALL, 0.25, 0.5, LARGE)
ROWS, HIDDEN, BATCH, NOISE = 8, 100, 100, 0.1
ARMS = {"recurrent": "batch norm of each step", "none": "no normalization"}


def plan(scale: Scale) -> list[Task]:
    """Every gamma, and the network without norms."""
    kinds = [*(("recurrent", gamma) for gamma in GAMMAS), ("none", None)]
    return [
        Task.of(arm, seed, gamma=gamma, rows=ROWS, hidden=HIDDEN, data=scale.data)
        for seed in range(scale.seeds)
        for arm, gamma in kinds
    ]


def run(task: Task) -> list[dict[str, Any]]:
    """The norm of the gradient for the state after each step but the last."""
    import torch
    from torch.nn.functional import cross_entropy

    from batchnorm.lab.data import cached
    from batchnorm.lab.loop import batches
    from batchnorm.lab.models import construct
    from batchnorm.probes import activation_gradient_norms

    data = cached(task["data"])
    gamma = {} if task["gamma"] is None else {"gamma": task["gamma"]}
    net = construct(
        "lstm",
        task.arm,
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        read="pixels",
        rows=task["rows"],
        hidden=task["hidden"],
        noise=NOISE,
        **gamma,
    ).double()
    chosen = next(batches(len(data.train.y), BATCH, task.seed))
    x, y = data.train.x[chosen].double(), data.train.y[chosen]
    torch.manual_seed(task.seed)  # the same noise on the first state in every arm
    seen = activation_gradient_norms(net.train(), lambda model: cross_entropy(model(x), y), ["from_hidden"])
    norms = [each.input for each in seen][
        1:
    ]  # call t takes the state after t steps; the first is the start's
    kept = None if norms[-1] in (None, 0.0) or norms[0] is None else norms[0] / norms[-1]
    return [{"norms": norms, "kept": kept}]


def verdict(records: Sequence[Line]) -> Verdict:
    """How much more of the gradient reaches the first step with the small gamma than with the large one."""
    small, large = (seed_values(records, "kept", arm="recurrent", gamma=gamma) for gamma in (SMALL, LARGE))
    whole = all(value is not None and value > 0 for value in (*small.values(), *large.values()))
    ratio = paired_ratio(small, large) if whole else None
    least = None if ratio is None else (ratio.mean if ratio.low is None else ratio.low)
    check = Check(
        f"early over late gradient: at least {LEAST:g} times as large at gamma {SMALL:g} as at {LARGE:g} (lower end)",
        plain_interval(ratio),
        least is not None and least >= LEAST,
    )
    n = len(distinct(records, "seed"))
    finding = (
        f"Over the steps, the gradient for the state changed by a factor of {plain_interval(_kept(records, SMALL))} "
        "with gamma "
        f"{SMALL:g}, of {plain_interval(_kept(records, LARGE))} with gamma {LARGE:g} and of "
        f"{plain_interval(geometric_mean(values(records, 'kept', arm='none')))} without batch norm ({seeds(n)})."
    )
    return Verdict.of(
        [check], ratio, unit="times as much gradient left", finding=finding, surprise=_surprise(records)
    )


def _surprise(records: Sequence[Line]) -> str:
    """How the other reading of the claim comes out, where with the large gamma the gradient surely grew."""
    grown, nearer = _kept(records, LARGE), _nearer(records)
    if grown is None or grown.low is None or grown.low <= 1 or nearer is None:
        return ""
    least = nearer.mean if nearer.low is None else nearer.low
    return (
        f"At these first weights the gradient did not vanish with gamma {LARGE:g}, it grew on its way back. Read as "
        f"“the ratio is nearer to 1” instead of “more is left”, gamma {SMALL:g} comes {plain_interval(nearer)} times "
        f"as near as {LARGE:g}, which would {'' if least >= LEAST else 'not '}meet a threshold of {LEAST:g}."
    )


def _away(kept: float | None) -> float | None:
    """By which factor a ratio lies above or below 1: as many times too large as too small is as far away."""
    return math.exp(abs(math.log(kept))) if kept is not None and 0 < kept < math.inf else None


def _aways(records: Sequence[Line], arm: str, gamma: float | None) -> dict[int, float | None]:
    return {seed: _away(kept) for seed, kept in seed_values(records, "kept", arm=arm, gamma=gamma).items()}


def _nearer(records: Sequence[Line]) -> Interval | None:
    """How many times nearer to 1 the ratio is with the small gamma; None where a seed has no ratio."""
    small, large = (_aways(records, "recurrent", gamma) for gamma in (SMALL, LARGE))
    return None if None in (*small.values(), *large.values()) else paired_ratio(large, small)


def _kept(records: Sequence[Line], gamma: float) -> Interval | None:
    return geometric_mean(values(records, "kept", arm="recurrent", gamma=gamma))


def figures(records: Sequence[Line]) -> list[Chart]:
    """The gradient over the steps, and what is left of it over gamma."""
    n = len(distinct(records, "seed"))
    looks = dict(zip(GAMMAS, ("recurrent", "quarter", "half", "one"), strict=True))
    curves = [
        _over_steps(looks[gamma], select(records, arm="recurrent", gamma=gamma), f"gamma {gamma:g}")
        for gamma in GAMMAS
    ]
    curves.append(_over_steps("none", select(records, arm="none"), ARMS["none"]))
    left = _geometric(
        "recurrent", {gamma: values(records, "kept", arm="recurrent", gamma=gamma) for gamma in GAMMAS}
    )
    control = geometric_mean(values(records, "kept", arm="none"))
    marks = [left, *_level(control)]
    aways = {gamma: list(_aways(records, "recurrent", gamma).values()) for gamma in GAMMAS}
    small, large = (plain_interval(geometric_mean(aways[gamma])) for gamma in (SMALL, LARGE))
    distance = [
        _geometric("recurrent", aways),
        *_level(geometric_mean(list(_aways(records, "none", None).values()))),
    ]
    ratio = number(verdict(records).value)
    return [
        Chart(
            "over-steps",
            f"Of the gradient, {plain_interval(_kept(records, SMALL))} is left at the first step with gamma {SMALL:g}, "
            f"{plain_interval(_kept(records, LARGE))} with {LARGE:g}",
            f"Norm of the gradient of the loss for the state after each step, over that after the last but one; first "
            f"weights, batch {BATCH}. Geometric mean over {seeds(n)} with 95% t intervals.",
            [Panel(curves, Axis("time step"), Axis("gradient norm over the last one", log=True))],
        ),
        Chart(
            "by-gamma",
            f"Gamma {SMALL:g} leaves {ratio} times as much of the gradient as gamma {LARGE:g}",
            "Gradient for the state after the first step over that after the last but one, by the gamma that all "
            f"norms start at. Geometric mean over {seeds(n)} with 95% t intervals.",
            [Panel(marks, Axis("gamma", log=True), Axis("early over late gradient", log=True))],
        ),
        Chart(
            "from-one",
            f"Early over late gradient lies a factor of {small} from 1 with gamma {SMALL:g}, of {large} with {LARGE:g}",
            "The same ratio, by which factor it lies above or below 1, exp(|log ratio|): a gradient that grew tenfold "
            f"on its way back is as far away as one of which a tenth is left. Geometric mean over {seeds(n)} with 95% "
            "t intervals.",
            [Panel(distance, Axis("gamma", log=True), Axis("factor between the ratio and 1", log=True))],
        ),
    ]


def _level(found: Interval | None) -> list[Curve]:
    """The LSTM without norms, which has no gamma, across all of them."""
    return [] if found is None else [Curve("none", [SMALL, LARGE], [found.mean] * 2, label=ARMS["none"])]


def _over_steps(arm: str, lines: Sequence[Line], label: str) -> Curve:
    steps = len(lines[0]["norms"])
    columns = {step + 1: [_over(line["norms"], step) for line in lines] for step in range(steps)}
    return _geometric(arm, columns, label)


def _over(norms: Sequence[float | None], step: int) -> float | None:
    value, last = norms[step], norms[-1]
    return value / last if value is not None and last else None


def _geometric(arm: str, columns: dict[Any, list[float | None]], label: str = "") -> Curve:
    found = [geometric_mean(column) for column in columns.values()]
    y, low, high = (
        [None if e is None else getattr(e, name) for e in found] for name in ("mean", "low", "high")
    )
    return Curve(arm, list(columns), y, low, high, label)


EXPERIMENT = Experiment(
    number=18,
    name="recurrent-batch-norm",
    title="Does a recurrent network with batch norm need a small gamma?",
    claim=f"In a recurrent network with batch norm the gradient vanishes over time where gamma starts at {LARGE:g}; "
    f"started at {SMALL:g}, it reaches the first steps.",
    source=Source(
        "T. Cooijmans, N. Ballas, C. Laurent, C. Gulcehre, A. Courville, Recurrent Batch Normalization, 2017",
        "https://arxiv.org/abs/1603.09025",
    ),
    published="Gamma starts at 0.1; the gradient over the steps is drawn, without a number. Not run here: LSTM of 100, "
    "MNIST pixel by pixel, test accuracy 98.9% without and 99.0% with batch norm, permuted pixels 90.2% and 95.4%.",
    method=f"LSTM of {HIDDEN} with batch norm of the input's part, the state's part and the cell, statistics of each "
    "time step, "
    f"reading images as {ROWS}x{ROWS} = {ROWS**2} pixels one by one; first weights, a batch of {BATCH}, noise of "
    f"{NOISE:g} on the first state, float64. Early is the state after the first step, late after the last but one.",
    criterion=f"Early over late norm of the loss's gradient for the state is at least {LEAST:g} times as large at "
    f"gamma {SMALL:g} as at {LARGE:g} (lower end of the 95% interval of the paired ratio).",
    does_not_show="Training: neither the accuracy with permuted pixels nor that a network with gamma 1 fails, for "
    "which runs of many minutes would be needed; gamma is learned and moves away from where it starts.",
    arms=ARMS,
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(2.2, 4.4),
    seeds=(5, 10),
    uses_data=True,
)
