"""A small convolutional network trained at a batch size of choice: what claims 12, 13 and 19 have in common."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from batchnorm.records.intervals import mean_interval
from batchnorm.records.selection import distinct, seed_values, values
from batchnorm.records.store import Line

if TYPE_CHECKING:
    from batchnorm.lab.experiment import Task
    from batchnorm.lab.models.network import NormMaker
    from batchnorm.lab.splits import Dataset, Split

__all__ = [
    "NETWORK",
    "SAMPLES",
    "best_lr",
    "errors",
    "layers",
    "mean_errors",
    "rates_in_words",
    "train",
    "trained",
]

SIDE, SAMPLES, GROUP = 8, 1077, 8
WIDTHS, HIDDEN, MOMENTUM = (16, 16, 16), 32, 0.9
HORIZON = 400  # samples: an averaging rate of 0.01 at batch 4
NETWORK = (
    f"Images averaged to {SIDE}x{SIDE}, {SAMPLES} to train on (all the digits have); {len(WIDTHS)} stages of a 3x3 "
    f"convolution with {WIDTHS[0]} channels, norm, relu and 2x2 pooling, so that the last norm sees 2x2 positions of a "
    f"sample; a hidden layer of {HIDDEN}. SGD with momentum {MOMENTUM:g} and a rate that falls in a straight line, "
    "shuffled "
    "batches, nothing added to the images. The learning rate is chosen for each arm and batch size by the mean error "
    "on the validation split over all seeds; errors are those of the test split."
)


def layers(arm: str, *, momentum: float, warmup: int = 0, ghost: int = 2) -> "NormMaker":
    """The maker of an arm's layers.

    Args:
        arm: "batch", "small" (batch norm too), "group" (8 channels a group), "renorm" or "ghost".
        momentum: rate of the running averages.
        warmup: of "renorm": steps of plain batch norm, by which its schedule is measured. Default 0.
        ghost: samples of a virtual batch. Default 2.

    Returns:
        (channels, dimensions, time steps) -> layer, for images.

    Example:
        >>> layers("group", momentum=0.1)(16, 4).num_groups
        2
    """
    from torch import nn

    from batchnorm.nn import BatchNorm2d, BatchRenorm2d, GhostBatchNorm2d

    def make(channels: int, ndim: int, steps: int | None = None) -> nn.Module:  # noqa: ARG001
        if arm == "group":
            return nn.GroupNorm(channels // GROUP, channels)
        if arm == "renorm":
            return BatchRenorm2d(channels, momentum=momentum, warmup=warmup)
        if arm == "ghost":
            return GhostBatchNorm2d(channels, momentum=momentum, virtual_batch_size=ghost)
        return BatchNorm2d(channels, momentum=momentum)

    return make


def trained(task: "Task", *, epochs: int = 0, steps: int = 0, ghost: int = 2) -> list[dict[str, Any]]:
    """`train` by a task's settings `data`, `samples`, `lr` and `batch`: what its run measured."""
    from batchnorm.lab.data import cached

    return [
        train(
            cached(task["data"]),
            task.arm,
            seed=task.seed,
            samples=task["samples"],
            lr=task["lr"],
            batch=task["batch"],
            epochs=epochs,
            steps=steps,
            ghost=ghost,
        )
    ]


def train(
    data: "Dataset",
    arm: str,
    *,
    seed: int,
    lr: float,
    batch: int,
    samples: int = SAMPLES,
    epochs: int = 0,
    steps: int = 0,
    ghost: int = 2,
) -> dict[str, Any]:
    """Train the network with an arm's layers; arms start from the same weights and see the same batches.

    Running averages reach back 400 samples whatever the batch size is, but a step has a share of at most 0.1 above
    batch 40. Batch renormalization is batch norm for the first 1/25 of the steps; its r_max then rises to 3 at 8/25 and
    d_max to 5 at 5/25.

    Args:
        data: images.
        arm: as for `layers`.
        seed: of weights and batches.
        lr: first learning rate.
        batch: samples a step.
        samples: how many to train on, a fixed choice. Default 1077.
        epochs: passes over the samples, or
        steps: how many.
        ghost: samples of a virtual batch. Default 2.

    Returns:
        `validation_error`, `test_error` and `train_error` in per cent, not finite where the training diverged;
        `steps_done`.
    """
    import torch

    from batchnorm.lab.loop import evaluate, fit
    from batchnorm.lab.models import construct

    splits = {
        name: _shrunk(getattr(data, name), samples if name == "train" else None)
        for name in ("train", "validation", "test")
    }
    x = splits["train"].x
    steps = steps or epochs * (len(x) // min(batch, len(x)))
    momentum = min(0.1, batch / HORIZON)
    torch.manual_seed(seed)
    net = construct(
        "vgg",
        layers(arm, momentum=momentum, warmup=max(1, steps // 25), ghost=ghost),
        "before",
        input_shape=tuple(x.shape[1:]),
        num_classes=data.num_classes,
        widths=WIDTHS,
        convs=1,
        hidden=HIDDEN,
    )
    found = fit(
        net, splits["train"], lr=lr, steps=steps, batch_size=batch, seed=seed, momentum=MOMENTUM, decay=True
    )
    record: dict[str, Any] = {"steps_done": len(found.losses)}
    for name, split in splits.items():
        record[f"{name}_error"] = math.nan if found.diverged else 100 * (1 - evaluate(net, split).accuracy)
    return record


def _shrunk(split: "Split", samples: int | None = None) -> "Split":
    """Images of 8x8; of a longer split so many samples, the same choice for every seed."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    from batchnorm.lab.splits import Split

    x, y = split.x, split.y
    if samples is not None and len(y) > samples:
        rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[:samples]
        x, y = x[rows], y[rows]
    return Split(adaptive_avg_pool2d(x, SIDE), y)


def best_lr(records: Sequence[Line], **where: Any) -> float | None:
    """The learning rate with the smallest mean validation error; one that diverged at any seed is not chosen.

    Args:
        records: measurements with `lr` and `validation_error`.
        where: arm and batch size.

    Returns:
        None where each diverged at some seed.

    Example:
        >>> lines = [
        ...     {"arm": "batch", "lr": lr, "validation_error": e}
        ...     for lr, e in ((0.1, 5.0), (0.2, 3.0), (0.4, None))
        ... ]
        >>> best_lr(lines, arm="batch")
        0.2
    """
    means = {}
    for lr in distinct(records, "lr", **where):
        found = values(records, "validation_error", lr=lr, **where)
        numbers = [value for value in found if value is not None]
        if len(numbers) == len(found) > 0:
            means[lr] = math.fsum(numbers) / len(numbers)
    return min(means, key=lambda lr: (means[lr], lr), default=None)


def errors(records: Sequence[Line], field: str = "test_error", **where: Any) -> dict[int, float | None]:
    """The error of each seed, in per cent, at the best learning rate; empty where there is none."""
    lr = best_lr(records, **where)
    return {} if lr is None else seed_values(records, field, lr=lr, **where)


def mean_errors(records: Sequence[Line], arm: str) -> Mapping[int, float | None]:
    """Batch size to the mean test error of an arm; None where no rate trained."""
    found = {}
    for batch in distinct(records, "batch", arm=arm):
        mean = mean_interval(errors(records, arm=arm, batch=batch).values())
        found[batch] = None if mean is None else mean.mean
    return found


def rates_in_words(records: Sequence[Line], arm: str) -> str:
    """The chosen rates as a caption has them: `0.001 at batch 2, 0.01 at batch 8`."""
    chosen = (
        (batch, best_lr(records, arm=arm, batch=batch)) for batch in distinct(records, "batch", arm=arm)
    )
    return ", ".join(f"{'none' if lr is None else f'{lr:g}'} at batch {batch}" for batch, lr in chosen)
