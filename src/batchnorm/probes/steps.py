"""The points theta - s * g along a gradient."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.errors import ArgumentError, ArgumentTypeError
from batchnorm.probes.evaluation import moved_to, shifted

__all__ = ["checked_steps", "column", "spread", "stepped"]


def checked_steps(steps: Any) -> list[float]:
    """The steps as numbers.

    Raises:
        ArgumentTypeError: steps is not a sequence of numbers.
        ArgumentError: there is none, or one that is not finite.
    """
    try:
        found = [float(step) for step in steps]
    except (TypeError, ValueError) as problem:
        raise ArgumentTypeError(
            f"steps: expected a sequence of numbers such as [0.1, 0.2], got {steps!r}"
        ) from problem
    if not found or not all(map(math.isfinite, found)):
        raise ArgumentError(f"steps: expected one finite number or more, got {found}")
    return found


@contextlib.contextmanager
def stepped(parameters: Sequence[nn.Parameter], direction: Sequence[Tensor], step: float) -> Iterator[float]:
    """Within it, the parameters are at theta - step * direction; gives the distance after rounding."""
    values, distance = shifted(parameters, direction, step)
    with moved_to(values):
        yield distance


def column(values: Sequence[float]) -> Tensor:
    """Numbers as a float64 tensor on the CPU."""
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def spread(values: Tensor) -> tuple[float, float]:
    """Least and largest; NaN where one of them is."""
    low, high = values.aminmax()
    return low.item(), high.item()
