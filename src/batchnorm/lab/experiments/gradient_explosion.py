"""16. Do gradients explode in a deep plain network with batch norm?

Batch norm keeps the signal of every layer at one size on its way forward. On the way back it does not: at the first
weights, in a network without residual connections, the squared norm of the gradient grows by pi / (pi - 1) in each
layer, whatever the weights' size. Behind a ReLU the values have mean 1 / sqrt(2 pi) and variance (pi - 1) / (2 pi),
so that dividing by the standard deviation multiplies gradients by more than the ReLU, which lets half of them pass,
takes away. This is a statement on wide layers and large batches; smaller batches are measured beside it.

Two arms are controls: no normalization with He's weights, where theory says 1, and layer norm, which takes the mean
over features.
"""

from collections.abc import Sequence
from math import exp, log, pi
from typing import Any

from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.records.charts import Axis, Chart, Curve, Panel
from batchnorm.records.claim import Source
from batchnorm.records.estimates import geometric_mean, slope_interval
from batchnorm.records.intervals import Interval
from batchnorm.records.selection import distinct, select, values
from batchnorm.records.store import Line
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import plain_interval, seeds

__all__ = ["EXPERIMENT"]

THEORY = pi / (pi - 1)
TOLERANCE = 0.03
DEPTH, WIDTH = 30, 512
BATCH, SMALLER = 512, (8, 32, 128)
FIRST, LAST = 5, 25  # the layers that growth is fitted to: the ends have not settled
ARMS = {"none": "no normalization", "batch": "batch norm", "layer": "layer norm"}


def plan(scale: Scale) -> list[Task]:
    """Every arm at the large batch, and batch norm at smaller ones."""
    kinds = [*((arm, BATCH) for arm in ARMS), *(("batch", size) for size in SMALLER)]
    return [Task.of(arm, seed, batch=size, width=WIDTH) for seed in range(scale.seeds) for arm, size in kinds]


def run(task: Task) -> list[dict[str, Any]]:
    """The norm of the gradient behind each layer, for a loss that is a random direction of the output."""
    import torch

    from batchnorm.lab.models import plain_batch_norm, stack
    from batchnorm.probes import activation_gradient_norms

    norm = plain_batch_norm if task.arm == "batch" else task.arm
    # Rounding grows with depth too: in float32 the first layers' gradients are some per cent off.
    net = stack(DEPTH, task["width"], norm).double()
    shape = (task["batch"], task["width"])
    x, direction = torch.randn(shape).double(), torch.randn(shape).double()
    layers = [str(number) for number in range(DEPTH)]
    seen = activation_gradient_norms(net, lambda model: (model(x) * direction).sum(), layers)
    squared = [each.output**2 for each in seen if each.output is not None]
    return [{"squared": squared, "growth": _growth(squared)}]


def _growth(squared: Sequence[float]) -> float | None:
    """The factor from a layer to the one before it, from the slope of the logarithms."""
    part = squared[FIRST - 1 : LAST]
    found = slope_interval(range(len(part)), [-log(value) for value in part]) if min(part) > 0 else None
    return None if found is None else exp(found.mean)


def verdict(records: Sequence[Line]) -> Verdict:
    """Growth a layer with batch norm against the theory, and the control against 1."""
    batch, none, layer = (_growths(records, arm) for arm in ("batch", "none", "layer"))
    checks = [
        Check(f"batch norm: growth a layer within {TOLERANCE:.0%} of {THEORY:.4g}", plain_interval(batch),
              _near(batch, THEORY)),
        Check(f"no normalization: growth a layer within {TOLERANCE:.0%} of 1", plain_interval(none),
              _near(none, 1.0)),
    ]  # fmt: skip
    n = len(distinct(records, "seed"))
    gap = "" if batch is None else f", {abs(batch.mean / THEORY - 1):.1%} from the {THEORY:.4g} of theory"
    finding = (
        f"With batch norm the squared norm of the gradient grew by {plain_interval(batch)} a layer towards the input "
        f"({seeds(n)}){gap}; without normalization by {plain_interval(none)} and with layer norm by "
        f"{plain_interval(layer)}."
    )
    return Verdict.of(checks, batch, unit="times a layer", finding=finding)


def _growths(records: Sequence[Line], arm: str, batch: int = BATCH) -> Interval | None:
    found = values(records, "growth", arm=arm, batch=batch)
    return None if None in found else geometric_mean(found)


def _near(found: Interval | None, target: float) -> bool:
    return found is not None and found.within(target * (1 - TOLERANCE), target * (1 + TOLERANCE))


def figures(records: Sequence[Line]) -> list[Chart]:
    """The norm by depth, and growth by batch size."""
    n = len(distinct(records, "seed"))
    curves = []
    for arm in ARMS:
        lines = [line["squared"] for line in select(records, arm=arm, batch=BATCH)]
        curves.append(
            _geometric(arm, {depth + 1: [_over(line, depth) for line in lines] for depth in range(DEPTH)})
        )
    depths = list(range(1, DEPTH + 1))
    curves.append(
        Curve("theory", depths, [THEORY ** (DEPTH - depth) for depth in depths], label="pi / (pi - 1)")
    )
    first = {arm: geometric_mean([_over(line["squared"], 0) for line in select(records, arm=arm, batch=BATCH)])
             for arm in ARMS}  # fmt: skip
    sizes = distinct(records, "batch", arm="batch")
    by_size = _geometric(
        "batch", {size: values(records, "growth", arm="batch", batch=size) for size in sizes}
    )
    smallest = _growths(records, "batch", sizes[0])
    return [
        Chart(
            "by-depth",
            f"{DEPTH - 1} layers from the end, the squared gradient is {plain_interval(first['batch'])} times as large "
            f"with batch norm, {plain_interval(first['none'])} times without",
            f"Squared norm of the gradient behind each layer, divided by that behind the last; {DEPTH} layers of "
            f"{WIDTH} features, batch {BATCH}, first weights. Geometric mean over {seeds(n)} with 95% t intervals.",
            [Panel(curves, Axis("layer"), Axis("squared gradient norm over the last layer's", log=True))],
        ),
        Chart(
            "by-batch-size",
            f"At batch size {sizes[0]} growth is {plain_interval(smallest)} a layer, at {BATCH} "
            f"{plain_interval(_growths(records, 'batch'))}",
            f"Growth of the squared gradient norm a layer, fitted to layers {FIRST} to {LAST}, over the batch size; "
            f"the theory is of large batches. Geometric mean over {seeds(n)} with 95% t intervals.",
            [
                Panel(
                    [by_size, Curve("theory", [sizes[0], sizes[-1]], [THEORY] * 2, label="pi / (pi - 1)")],
                    Axis("batch size", log=True),
                    Axis("growth a layer"),
                )
            ],
        ),
    ]


def _over(squared: Sequence[float | None], depth: int) -> float | None:
    value, last = squared[depth], squared[-1]
    return value / last if value is not None and last else None


def _geometric(arm: str, columns: dict[int, list[float | None]]) -> Curve:
    found = [geometric_mean(column) for column in columns.values()]
    y, low, high = (
        [None if each is None else getattr(each, name) for each in found] for name in ("mean", "low", "high")
    )
    return Curve(arm, list(columns), y, low, high)


EXPERIMENT = Experiment(
    number=16,
    name="gradient-explosion",
    title="Do gradients explode in a deep plain network with batch norm?",
    claim="At the first weights of a plain ReLU network, batch norm makes the squared norm of the gradient grow by "
    "pi / (pi - 1) in each layer, so that very deep ones cannot be trained.",
    source=Source(
        "G. Yang, J. Pennington, V. Rao, J. Sohl-Dickstein, S. S. Schoenholz, A Mean Field Theory of Batch "
        "Normalization, 2019",
        "https://arxiv.org/abs/1902.08129",
    ),
    published=f"Growth of pi / (pi - 1) = {THEORY:.4g} a layer for ReLU, for wide layers and large batches.",
    method=f"{DEPTH} layers of linear, norm and ReLU, {WIDTH} features, N(0, 2 / width) weights without biases, a "
    f"Gaussian batch of {BATCH}, float64, and a loss that is a random direction of the output. Growth is the slope of "
    f"the squared gradient norm's logarithm over layers {FIRST} to {LAST}, each seed for itself. No training.",
    criterion=f"The 95% interval of growth a layer lies within {TOLERANCE:.0%} of pi / (pi - 1) with batch norm, and "
    f"within {TOLERANCE:.0%} of 1 without normalization.",
    does_not_show="What happens after the first steps of training, which changes the weights; nor networks with "
    "residual connections, whose gradients do not grow so.",
    arms=ARMS,
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(14.0, 35.0),
    seeds=(8, 20),
)
