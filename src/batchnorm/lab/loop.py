"""The training loop of the experiments: SGD for some steps on batches that the seed alone decides."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from batchnorm.lab import scores
from batchnorm.lab.splits import Split

__all__ = ["Fit", "batches", "evaluate", "fit"]

EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Fit:
    """What a training left.

    Args:
        losses: of each step's batch, before the step; the last one is not finite where the training diverged.
    """

    losses: list[float]

    @property
    def diverged(self) -> bool:
        """Whether the loss stopped being finite, which ended the training."""
        return bool(self.losses) and not math.isfinite(self.losses[-1])


def batches(samples: int, size: int, seed: int) -> Iterator[Tensor]:
    """Indices of batches without end, shuffled anew each epoch by a generator of their own.

    All have `size` samples (fewer where there are not so many): what is left over at the end of an epoch is dropped.

    Example:
        >>> found = batches(5, 2, seed=0)
        >>> sorted(set(torch.cat([next(found), next(found)]).tolist())) == sorted(
        ...     set(torch.randperm(5, generator=torch.Generator().manual_seed(0))[:4].tolist())
        ... )
        True
    """
    order = torch.Generator().manual_seed(seed)
    size = min(size, samples)
    while True:
        yield from torch.randperm(samples, generator=order)[: samples // size * size].split(size)


def fit(
    model: nn.Module,
    split: Split,
    *,
    lr: float,
    steps: int,
    batch_size: int,
    seed: int,
    momentum: float = 0.0,
    decay: bool = False,
    after: Callable[[int], bool | None] | None = None,
) -> Fit:
    """Train with SGD on cross entropy; ends early at a loss that is not finite.

    Networks that are trained with the same seed see the same batches, whatever numbers they draw themselves.

    Args:
        model: (N, ...) -> logits (N, classes); put into training mode, and changed.
        split: samples and labels.
        lr: learning rate.
        steps: how many.
        batch_size: samples a step.
        seed: of the order of the samples.
        momentum: of SGD. Default 0.
        decay: whether the rate falls in a straight line, from `lr` at the first step to `lr / steps` at the last.
        after: called with the number of a step, from 1, when it is done; it may evaluate the model. Where it returns
            True the training ends.

    Returns:
        The losses.

    Example:
        >>> data = Split(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]))
        >>> found = fit(nn.Linear(1, 2), data, lr=1.0, steps=20, batch_size=2, seed=0)
        >>> found.losses[-1] < 0.2, found.diverged
        (True, False)
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    order = batches(len(split.y), batch_size, seed)
    losses: list[float] = []
    for step in range(1, steps + 1):
        if decay:
            optimizer.param_groups[0]["lr"] = lr * (steps + 1 - step) / steps
        model.train()
        chosen = next(order)
        optimizer.zero_grad()
        loss = cross_entropy(model(split.x[chosen]), split.y[chosen])
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
        loss.backward()
        optimizer.step()
        if after is not None and after(step):
            break
    return Fit(losses)


def evaluate(model: nn.Module, split: Split) -> scores.Scores:
    """Loss and accuracy on a split in evaluation mode, in which the model is left.

    Example:
        >>> data = Split(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 0]))
        >>> evaluate(nn.Linear(1, 2), data).probabilities.shape
        torch.Size([2, 2])
    """
    model.eval()
    with torch.no_grad():
        outputs = [model(part) for part in split.x.split(EVALUATION_BATCH)]
    return scores.evaluate(torch.cat(outputs), split.y)
