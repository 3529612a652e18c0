"""Copies, the unit in which the physical limit is counted."""

from collections.abc import Callable

import torch
from torch import Tensor

from batchnorm.ops.memory import empty_like
from batchnorm.ops.shared_library import require, why_unavailable

__all__ = ["advised_copy", "fresh_copy"]


def fresh_copy(x: Tensor) -> Callable[[], Tensor]:
    """A copy of `x` into a tensor that is allocated as our outputs are."""
    if why_unavailable() is not None:
        return x.clone
    return lambda: empty_like(x).copy_(x)


def advised_copy(x: Tensor) -> Callable[[], Tensor]:
    """A copy of `x` into fresh memory that the kernel was asked to back with huge pages."""
    advise = require().functions.bn_advise_huge_pages
    size = x.numel() * x.element_size()

    def copy() -> Tensor:
        fresh = torch.empty_like(x)
        advise(fresh.data_ptr(), size)
        return fresh.copy_(x)

    return copy
