"""A run as series of numbers: what loggers such as TensorBoard take. A pure function of the records."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from batchnorm.records.grouping import finite, last_epoch
from batchnorm.records.store import Run

__all__ = ["Scalar", "parameters", "scalars"]

_EPOCH = {
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "val_loss": "validation/loss",
    "val_accuracy": "validation/accuracy",
    "seconds": "time/seconds",
}
_FINAL = {
    "test_loss": "test/loss",
    "test_accuracy": "test/accuracy",
    "seconds_per_step": "time/seconds_per_step",
}
_ACTIVATION = ("mean", "std", "p15", "p50", "p85")
_OWN = ("arm", "placement", "lr", "seed", "parameters")
# Fields of the lab's measurements that say where a number was measured; the first one there is the x axis.
_PLACES = ("step", "epoch", "depth", "layer", "block", "feature", "channel")
_UNFIT = re.compile(r"[^\w\-./ ]")  # what MLflow refuses in a name


class Scalar(NamedTuple):
    """One number of a series; `step` counts epochs, 0 is before training, or what a measurement of the lab counts."""

    name: str
    step: int
    value: float


def scalars(run: Run) -> list[Scalar]:
    """The numbers of a run in the order of epochs; what is missing or not finite is left out.

    Args:
        run: a finished run.

    Returns:
        `train/loss`, `train/accuracy`, `validation/loss`, `validation/accuracy` and `time/seconds` of each epoch; mean,
        std and percentiles as `activations/SITE/input/mean` of each measured one; at the last epoch `test/loss`,
        `test/accuracy`, `time/seconds_per_step`, and `diverged` as 0 or 1.

        Of a run of the lab: each number and truth value that it measured, over the step, epoch, depth, layer, block,
        feature or channel at which it did, else numbered from 0; and `time/seconds` at 0. Texts beside a number go in
        front of its name: `trained/loss`. Lists are left out.

    Example:
        >>> scalars(Run({"run": "a"}, [{"epoch": 1, "val_loss": 0.5, "train_loss": None}]))[0]
        Scalar(name='validation/loss', step=1, value=0.5)
    """
    found: list[Scalar] = []
    for line in run.epochs:
        found += _of(line, _EPOCH, _step(line))
    for line in run.activations:
        names = {key: f"activations/{line.get('site')}/{line.get('where')}/{key}" for key in _ACTIVATION}
        found += _of(line, names, _step(line))
    found += _measured(run)
    last = _step(last_epoch(run))
    found += _of(run.final, _FINAL, last)
    if _of_the_lab(run):
        found += _of(run.final, {"seconds": "time/seconds"}, 0)
    if isinstance(run.final.get("diverged"), bool):
        found.append(Scalar("diverged", last, float(run.final["diverged"])))
    return sorted(found, key=lambda scalar: scalar.step)


def parameters(run: Run, settings: dict[str, Any]) -> dict[str, Any]:
    """What a run was made with: its arm, placement, rate and seed, or its task's settings, and those all runs share."""
    # The first line of a comparison's run says more than that, such as what its layers are.
    names = [key for key in run.header if key not in ("kind", "run")] if _of_the_lab(run) else _OWN
    return settings | {key: run.header[key] for key in names if run.header.get(key) is not None}


def _of_the_lab(run: Run) -> bool:
    return bool(run.measurements) or "measurements" in run.final


def _measured(run: Run) -> Iterator[Scalar]:
    """Each number of the measurements once."""
    seen: Counter[str] = Counter()
    for line in run.measurements:
        own = {key: value for key, value in line.items() if key != "kind" and key not in run.header}
        places = [key for key in _PLACES if type(own.get(key)) is int]
        words = [_UNFIT.sub("_", value) for value in own.values() if isinstance(value, str)]
        words += [f"{key}-{own[key]}" for key in places[1:]]
        for key in [key for key in own if key not in places]:
            value = float(own[key]) if isinstance(own[key], bool) else finite(own[key])
            name = "/".join([*words, key])
            step = own[places[0]] if places else seen[name]
            seen[name] += 1
            if value is not None:
                yield Scalar(name, step, value)


def _of(line: dict[str, Any], names: dict[str, str], step: int) -> list[Scalar]:
    values = ((name, finite(line.get(key))) for key, name in names.items())
    return [Scalar(name, step, value) for name, value in values if value is not None]


def _step(line: dict[str, Any]) -> int:
    return int(finite(line.get("epoch")) or 0)
