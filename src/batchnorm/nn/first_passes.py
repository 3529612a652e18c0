"""What forwards used, kept until activation checkpointing repeats them."""

from collections import deque
from typing import Any

import torch
from torch import Tensor

from batchnorm.errors import RecomputationError
from batchnorm.moments import Moments
from batchnorm.ops import in_function_transform

__all__ = ["FirstPasses", "may_be_repeated"]

_KEPT = 64


def may_be_repeated() -> bool:
    """Whether this forward runs as the first pass of activation checkpointing does: unrecorded, or with hooks."""
    if torch.compiler.is_compiling() or in_function_transform():
        return False
    return (
        not torch.is_grad_enabled() or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    )


class FirstPasses:
    """The numbers of the last 64 forwards that may be repeated, found again by the moments of their batch.

    The same input gives the same moments to the bit, and comparing them on their device waits for nothing. Of batches
    equal to the bit the last one counts. Copies and pickles are empty: what is in here belongs to a running step.
    """

    def __init__(self) -> None:
        self._kept: deque[Tensor] = deque(maxlen=_KEPT)

    def __deepcopy__(self, _: Any) -> "FirstPasses":
        return FirstPasses()

    def __reduce__(self) -> Any:
        return FirstPasses, ()

    def keep(self, batch: Moments, first: Tensor, second: Tensor) -> None:
        """Remember two numbers a channel for the batch with these moments."""
        self._kept.append(torch.stack([batch.mean, batch.var, first, second]))

    def find(self, batch: Moments) -> tuple[Tensor, Tensor]:
        """What was kept for a batch with these moments.

        On an accelerator, where a look would wait for it, a batch that was not seen gives NaN instead of the error.

        Raises:
            RecomputationError: no such batch was seen.
        """
        key = torch.stack([batch.mean, batch.var])
        alike = [
            kept
            for kept in reversed(self._kept)
            if kept.device == key.device and kept.dtype == key.dtype and kept.shape[1:] == key.shape[1:]
        ]
        if alike:
            table = torch.stack(alike)
            keys = table[:, :2]
            same = ((keys == key) | (keys.isnan() & key.isnan())).flatten(1).all(1)
            found = same.any()
            if not found.is_cpu or found:
                # The first of those that are the same: argmax of integers is.
                row = table.index_select(0, same.to(torch.int8).argmax().view(1))[0]
                nan = row.new_full((), float("nan"))
                return torch.where(found, row[2], nan), torch.where(found, row[3], nan)
        raise RecomputationError(
            "a forward in training started inside a backward pass, which activation checkpointing does to repeat an "
            f"earlier one; but none of the last {_KEPT} forwards of this layer had this batch. r and d of that forward "
            "would be wrong now, since the running statistics have moved. Run backward before that many more forwards, "
            "keep what computes the layer's input deterministic (preserve_rng_state=True, one bn.backend), or leave "
            "the layer out of the checkpoint."
        )
