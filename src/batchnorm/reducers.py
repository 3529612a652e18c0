"""Merge the (C,)-sized numbers of the ranks of a process group: what happens between the operators.

Every rank of the group calls every method here, in the same order, with tensors of the same size; batches may be empty.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from batchnorm.moments import Moments, pool
from batchnorm.ops import unseen_by_selective_checkpointing

__all__ = ["GATHER_UP_TO", "GroupReducer"]

# A gather brings every rank world_size * (2C + 2) numbers, a reduction 2C + 2 whatever the world is.
GATHER_UP_TO = 64


class GroupReducer:
    """Merges over a `torch.distributed` process group.

    Nothing here waits for an accelerator: counts stay where they are. On the CPU, where looking costs nothing, the
    count of a batch without masks becomes an int.

    Args:
        process_group: None for the default group.
        gather_up_to: the largest group whose moments are gathered, in one collective; larger ones reduce, in two.
    """

    def __init__(self, process_group: Any = None, gather_up_to: int = GATHER_UP_TO) -> None:
        self.process_group = process_group
        self.gather_up_to = gather_up_to

    def moments(self, local: Moments) -> Moments:
        """The moments of the ranks' batches joined, the same on every rank; not differentiable.

        Returns:
            Moments whose count is an int if it is on the CPU and no rank's count came from a mask.
        """
        mean = local.mean
        if isinstance(local.count, Tensor):
            counts = torch.stack([local.count.to(mean), mean.new_ones(())])
        else:
            counts = torch.cat([mean.new_full((1,), local.count), mean.new_zeros(1)])
        gathers = dist.get_world_size(self.process_group) <= self.gather_up_to
        joined, masked = self._gathered(counts, local) if gathers else self._reduced(counts, local)
        if mean.is_cpu and type(mean) is Tensor and not masked.item():
            return Moments(int(joined.count), joined.mean, joined.var)
        return joined

    def sum(self, values: Tensor) -> Tensor:
        """The sum of the ranks' tensors, in one collective; differentiable any number of times."""
        total: Tensor = _Sum.apply(values, self.process_group)
        return total

    def _gathered(self, counts: Tensor, local: Moments) -> tuple[Moments, Tensor]:
        packed = torch.cat([counts, local.mean, local.var])
        # torch 2.13 has renamed it, and warns on the old name.
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        with unseen_by_selective_checkpointing():
            everything = packed.new_empty(dist.get_world_size(self.process_group) * packed.numel())
            gather(everything, packed, group=self.process_group)
        parts = everything.view(-1, packed.numel())
        count, masked, numbers = parts[:, 0], parts[:, 1], parts[:, 2:]
        return pool(count, *numbers.chunk(2, 1)), masked.sum()

    def _reduced(self, counts: Tensor, local: Moments) -> tuple[Moments, Tensor]:
        first = self.sum(torch.cat([counts, counts[0] * local.mean]))
        count, masked = first[0], first[1]
        mean = first[2:] / count.clamp(min=1)
        squares = self.sum(counts[0] * (local.var + (local.mean - mean).square()))
        return Moments(count, mean, squares / count.clamp(min=1)), masked


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, process_group: Any) -> Tensor:
        ctx.process_group = process_group
        with unseen_by_selective_checkpointing():
            total = values.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(total, group=process_group)
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        # The loss is the sum over the ranks, and each rank's values went into every rank's total.
        return _Sum.apply(grad_output, ctx.process_group), None
