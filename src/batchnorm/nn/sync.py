"""Batch norm over the batches of several processes."""

import copy
from typing import Any, ClassVar, Self

import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from batchnorm.activations import ActivationLike, resolve
from batchnorm.errors import ArgumentError
from batchnorm.functional import normalize_and_track
from batchnorm.moments import UNTRACKED, RunningStats
from batchnorm.nn.tracked import TrackedNorm
from batchnorm.ops import Affine
from batchnorm.reducers import GroupReducer

__all__ = ["SyncBatchNorm"]


class SyncBatchNorm(TrackedNorm, _BatchNorm):
    """Batch normalization of (N, C, *) over the batches that all ranks of a process group see, joined.

    y = act((x - mean) / sqrt(var + eps) * weight + bias + residual); in training mean and biased variance are those of
    the joined batch, in evaluation they are the running statistics, which are equal on all ranks.

    In training every rank of the group calls the layer, and backward through it, equally often and in the same order. A
    rank without data passes an input with N = 0 and calls backward on the sum of what comes out. Evaluation, a group
    of one rank and a process without torch.distributed need nobody else: plain batch norm.

    Args:
        num_features: channels C.
        eps: added to the variance. Default 1e-5.
        momentum: weight of the new batch in the running statistics; None for the cumulative average. Default 0.1.
        affine: learn weight and bias (C,). Default True.
        track_running_stats: keep running statistics; without them evaluation uses this rank's batch. Default True.
        process_group: the ranks to join, this one among them; None for all. Default None.
        device: of parameters and buffers.
        dtype: of weight and bias; running statistics are float32 or wider whatever it is.
        bias: keyword; False leaves the bias out. Default True.

    Call:
        layer(input, residual=None, *, act=None, mask=None, lengths=None); see `BatchNorm1d`. The gradients of weight
        and bias are this rank's sums, which DistributedDataParallel averages.

    Raises:
        DimensionError: (ValueError) the input has fewer than two dimensions.
        BatchTooSmallError: (ValueError) one value a channel on all ranks together, raised on each of them. On an
            accelerator and with a mask it is variance 0, and the running statistics stay.
        ArgumentError: (ValueError) this rank is not in the process group.
        TransformError: (RuntimeError) training under torch.func, forward-mode AD or a tracer.
        RuntimeError: from torch.distributed, when a rank does not come within the group's timeout.

    Example:
        >>> import torch, batchnorm as bn
        >>> layer = bn.SyncBatchNorm(16)  # the same with and without torch.distributed
        >>> layer(torch.randn(8, 16, 28, 28), act="relu").shape
        torch.Size([8, 16, 28, 28])

    Source: Peng et al. 2018, "MegDet", arXiv:1711.07240, section 3.3.
    """

    _takes_rows: ClassVar[bool] = True

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self.process_group = process_group

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # A process group cannot be copied; what memo has is not.
        memo[id(self.process_group)] = self.process_group
        new = memo[id(self)] = type(self).__new__(type(self))
        new.__setstate__(copy.deepcopy(self.__dict__, memo))
        return new

    def _normalize(
        self, input: Tensor, residual: Tensor | None, act: ActivationLike, mask: Tensor | None
    ) -> Tensor:
        reducer = _reducer(self.process_group) if self.training else None
        if reducer is None:
            return super()._normalize(input, residual, act, mask)
        stats = UNTRACKED
        if self.track_running_stats:
            stats = RunningStats(self.running_mean, self.running_var, self.num_batches_tracked)
        affine = Affine(self.weight, self.bias, residual, resolve(act), mask)
        return normalize_and_track(
            input, stats, affine, True, self.momentum, self.eps, self._channel_dim, reducer
        )


def _reducer(process_group: Any) -> GroupReducer | None:
    """None where there is nobody to join with."""
    if not dist.is_available() or not dist.is_initialized():
        return None
    size = dist.get_world_size(process_group)
    if size < 1:
        raise ArgumentError(
            f"process_group must be one that this rank is in; rank {dist.get_rank()} is not: give the layer the group "
            "that dist.new_group returned on its own members"
        )
    return GroupReducer(process_group) if size > 1 else None
