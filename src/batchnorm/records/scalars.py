"""A run as series of numbers: what loggers such as TensorBoard take. A pure function of the records."""

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
_IDENTITY = ("arm", "placement", "lr", "seed", "parameters")


class Scalar(NamedTuple):
    """One number of a series; `step` counts epochs, 0 is before training."""

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
    last = _step(last_epoch(run))
    found += _of(run.final, _FINAL, last)
    if isinstance(run.final.get("diverged"), bool):
        found.append(Scalar("diverged", last, float(run.final["diverged"])))
    return sorted(found, key=lambda scalar: scalar.step)


def parameters(run: Run, settings: dict[str, Any]) -> dict[str, Any]:
    """What a run was made with: its arm, placement, rate and seed, and the settings of its comparison."""
    own = {key: run.header[key] for key in _IDENTITY if run.header.get(key) is not None}
    return settings | own


def _of(line: dict[str, Any], names: dict[str, str], step: int) -> list[Scalar]:
    values = ((name, finite(line.get(key))) for key, name in names.items())
    return [Scalar(name, step, value) for name, value in values if value is not None]


def _step(line: dict[str, Any]) -> int:
    return int(finite(line.get("epoch")) or 0)
