"""Batch renormalization: batch statistics, corrected towards the running ones."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from batchnorm.activations import ActivationLike, resolve
from batchnorm.arguments import validate
from batchnorm.autograd import Call, normalize_with_batch, normalize_with_given, run
from batchnorm.errors import ArgumentError
from batchnorm.moments import Moments, RunningStats
from batchnorm.nn.first_passes import FirstPasses, may_be_repeated
from batchnorm.nn.tracked import TrackedNorm
from batchnorm.ops import (
    Affine,
    invstd_of,
    is_plain,
    reference,
    saved,
    select,
    unseen_by_selective_checkpointing,
    wide_dtype,
)
from batchnorm.ops.kept import kept
from batchnorm.ops.layout import like_input
from batchnorm.ops.reference import compute_dtype
from batchnorm.running import is_recomputed, track_values

__all__ = ["BatchRenorm1d", "BatchRenorm2d", "BatchRenorm3d"]

# Ioffe's schedule: 5,000 steps of batch norm, then r_max rises until step 40,000 and d_max until step 25,000.
_WARMUP, _R_RAMP_ENDS, _D_RAMP_ENDS = 5_000, 40_000 / 5_000, 25_000 / 5_000

Limit = float | Sequence[tuple[float, float]]
Knots = tuple[tuple[float, float], ...]


class _BatchRenorm(TrackedNorm):
    _wide_buffers: ClassVar[tuple[str, ...]] = ("running_mean", "running_std")

    running_mean: Tensor
    running_std: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.01,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        r_max: Limit = 3.0,
        d_max: Limit = 5.0,
        warmup: int = _WARMUP,
    ) -> None:
        if not track_running_stats:
            raise ArgumentError(
                "batch renormalization corrects towards running statistics, so track_running_stats must be True; "
                "use BatchNorm for statistics of the batch alone"
            )
        super().__init__(num_features, eps, momentum, affine, True, device=device, dtype=dtype, bias=bias)
        counter = self._buffers.pop("num_batches_tracked")
        del self._buffers["running_var"]
        self.register_buffer("running_std", torch.ones_like(self.running_mean))
        self.register_buffer("num_batches_tracked", counter)
        _check_warmup(warmup)
        self.r_max = _checked("r_max", r_max, 1.0)
        self.d_max = _checked("d_max", d_max, 0.0)
        self.warmup = warmup
        self._first_passes = FirstPasses()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, r_max={self.r_max}, d_max={self.d_max}, warmup={self.warmup}"

    def reset_running_stats(self) -> None:
        """Set the running mean to 0, the running standard deviation to 1 and the counter, the schedule's step, to 0."""
        self._widen_buffers()
        for name, value in (("running_mean", 0), ("running_std", 1), ("num_batches_tracked", 0)):
            buffer = self._buffers.get(name)
            if buffer is not None:  # torch's constructor comes here first
                buffer.fill_(value)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if f"{prefix}running_var" in state_dict and f"{prefix}running_std" not in state_dict:
            errors = args[-1]
            errors.append(
                f"{prefix}running_var is a batch norm's, and {type(self).__name__} keeps running_std; load it into a "
                "batch norm and convert that, or give running_std = sqrt(running_var + eps)"
            )

    def _normalize(
        self, input: Tensor, residual: Tensor | None, act: ActivationLike, mask: Tensor | None
    ) -> Tensor:
        stats = RunningStats(self.running_mean, self.running_std, self.num_batches_tracked)
        affine = Affine(self.weight, self.bias, residual, resolve(act), mask)
        channel_dim, affine = validate(
            input, stats, affine, self.training, self.momentum, self.eps, self._channel_dim
        )
        if not self.training:
            wide = wide_dtype(input)
            mean, std = self.running_mean.to(wide), self.running_std.to(wide)
            return normalize_with_given(input, mean, std.square(), affine, 0.0, channel_dim)
        may_return = may_be_repeated()
        # Unseen, since a repeated forward does not compute r and d but finds them.
        with torch.no_grad(), unseen_by_selective_checkpointing():
            batch = _moments(input, affine, channel_dim)
            std = torch.sqrt(batch.var + self.eps)
            if is_recomputed():
                r, d = self._first_passes.find(batch)
            else:
                r, d = self._corrections(batch.mean, std)
                if may_return:
                    self._first_passes.keep(batch, r, d)
                if self.track_running_stats:  # which no_stats_update takes back for a while
                    track_values(stats, (batch.mean, std), batch.count, self.momentum)
        corrected = _corrected(affine, r, d, compute_dtype(input))
        return _normalize_with(batch, input, corrected, self.eps, channel_dim)

    def _corrections(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """R and d of equation 5, clipped."""
        step = self.num_batches_tracked.to(std.dtype)
        r_max = _at(step, _knots(self.r_max, self.warmup, 1.0, _R_RAMP_ENDS))
        d_max = _at(step, _knots(self.d_max, self.warmup, 0.0, _D_RAMP_ENDS))
        running_mean, running_std = self.running_mean.to(std.dtype), self.running_std.to(std.dtype)
        r = torch.clamp(std / running_std, 1 / r_max, r_max)
        d = torch.clamp((mean - running_mean) / running_std, -d_max, d_max)
        r, d = kept(torch.stack([r, d])).unbind()
        return r, d


def _moments(x: Tensor, affine: Affine, channel_dim: int) -> Moments:
    plain = is_plain(x, affine.weight, affine.bias, affine.residual)
    # Detached, since forward AD passes no_grad.
    return (select(x, affine) if plain else reference).moments(x.detach(), affine.mask, channel_dim)


def _corrected(affine: Affine, r: Tensor, d: Tensor, dtype: torch.dtype) -> Affine:
    """(xhat * r + d) * weight + bias as xhat * (r * weight) + (d * weight + bias)."""
    weight, bias = affine.weight, affine.bias
    scale = r if weight is None else r * weight
    shift = d if weight is None else d * weight
    if bias is not None:
        shift = shift + bias
    return affine._replace(weight=scale.to(dtype), bias=shift.to(dtype))


class _WithMoments(Call):
    """A call whose batch has been read for its moments already."""

    __slots__ = ("batch",)

    batch: Moments

    def run(self, x: Tensor, affine: Affine) -> Tensor:
        batch = self.batch
        del self.batch
        invstd = invstd_of(batch.var, x, self.eps)
        self.rows = saved.join(batch, invstd)
        return like_input(x, self.backend.normalize(x, batch.mean, invstd, affine, self.channel_dim))


def _normalize_with(batch: Moments, x: Tensor, affine: Affine, eps: float, channel_dim: int) -> Tensor:
    if not is_plain(x, affine.weight, affine.bias, affine.residual):
        return normalize_with_batch(x, affine, eps, channel_dim)[0]
    call = _WithMoments(select(x, affine), affine.act, affine.mask, eps, channel_dim)
    call.batch = batch
    return run(x, affine, call)


def _knots(limit: float | Knots, warmup: int, start: float, ramp_ends: float) -> Knots:
    if isinstance(limit, tuple):
        return limit
    if warmup == 0:
        return ((0, limit),)
    return ((warmup, start), (warmup * ramp_ends, limit))


def _at(step: Tensor, knots: Knots) -> Tensor:
    """The value at a step: straight lines between the knots, level outside of them."""
    value = torch.full_like(step, knots[0][1])
    for (begin, low), (end, high) in itertools.pairwise(knots):
        value = value + (high - low) * ((step - begin) / (end - begin)).clamp(0, 1)
    return value


def _checked(name: str, limit: Any, least: float) -> float | Knots:
    if _is_number(limit):
        if limit < least or not math.isfinite(limit):
            raise ArgumentError(f"{name} must be at least {least:g} and finite, got {limit!r}")
        return float(limit)
    try:
        knots = tuple((step, float(value)) for step, value in limit)
    except (TypeError, ValueError):
        knots = ()
    if not knots or not all(_is_number(number) for knot in knots for number in knot):
        raise ArgumentError(f"{name} must be a number, or pairs of a step and a value, got {limit!r}")
    steps = [step for step, _ in knots]
    if steps[0] < 0 or any(later <= sooner for sooner, later in itertools.pairwise(steps)):
        raise ArgumentError(f"{name} must have steps from 0 that rise from pair to pair, got {limit!r}")
    for _, value in knots:
        _checked(name, value, least)
    return knots


def _check_warmup(warmup: Any) -> None:
    if not isinstance(warmup, int) or isinstance(warmup, bool) or warmup < 0:
        raise ArgumentError(f"warmup must be a number of steps from 0, got {warmup!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class BatchRenorm1d(_BatchRenorm):
    """Batch normalization of (N, C) or (N, C, L) whose training output is close to that of evaluation.

    y = act(((x - mean) / std * r + d) * weight + bias + residual)
    r = clip(std / running_std, 1 / r_max, r_max), d = clip((mean - running_mean) / running_std, -d_max, d_max)

    Mean and std = sqrt(var + eps) are the batch's; r and d are constants to the gradient. Unclipped they would make y
    what evaluation gives, with (x - running_mean) / running_std; with r_max 1 and d_max 0 it is batch norm. The running
    averages are of mean and std; running_std has eps in it, and takes the place of running_var. The place in the
    schedule is num_batches_tracked, so that a checkpoint goes on where it was. It is no `_BatchNorm`.

    Args:
        num_features: channels C. The other positional arguments, and bias, are those of `BatchNorm1d`, except that
            momentum is 0.01 by default and track_running_stats must be True.
        r_max: keyword; a number from 1, reached in a straight line from 1 between steps warmup and 8 * warmup; or
            ((step, value), ...) with straight lines between. Default 3.
        d_max: keyword; a number from 0, reached in a straight line from 0 between steps warmup and 5 * warmup; or
            pairs as for r_max. Default 5.
        warmup: keyword; batches for which r = 1 and d = 0 if r_max and d_max are numbers. Default 5000.

    Call:
        layer(input, residual=None, *, act=None, mask=None, lengths=None); see `BatchNorm1d`.

    Raises:
        ArgumentError: (ValueError) r_max, d_max or warmup is not as above, or track_running_stats is False.
        DimensionError: (ValueError) the input is not 2-D or 3-D.
        BatchTooSmallError: (ValueError) training with one value a channel.
        RecomputationError: (RuntimeError) activation checkpointing repeats a forward that is too long ago.

    Example:
        >>> import torch, batchnorm as bn
        >>> layer, x = bn.BatchRenorm1d(4, r_max=1e6, d_max=1e6, warmup=0), torch.randn(8, 4)
        >>> torch.allclose(layer(x), x, atol=1e-5)  # as (x - running_mean) / running_std before this batch
        True

    Source: Ioffe 2017, arXiv:1702.03275, algorithm 1 and section 3.
    """

    _ranks: ClassVar[tuple[int, ...]] = (2, 3)
    _takes_rows: ClassVar[bool] = True


class BatchRenorm2d(_BatchRenorm):
    """Batch normalization of images (N, C, H, W) whose training output is close to that of evaluation.

    y = act(((x - mean) / std * r + d) * weight + bias + residual), r and d as in `BatchRenorm1d`.

    Args:
        num_features: channels C. The other arguments are those of `BatchRenorm1d`.

    Call:
        layer(input, residual=None, *, act=None, mask=None); mask is (N, H, W).

    Raises:
        DimensionError: (ValueError) the input is not 4-D. The others are those of `BatchRenorm1d`.

    Example:
        >>> import torch, batchnorm as bn
        >>> bn.BatchRenorm2d(16, warmup=100)(torch.randn(4, 16, 7, 7), act="relu").shape
        torch.Size([4, 16, 7, 7])

    Source: Ioffe 2017, arXiv:1702.03275, algorithm 1 and section 3.
    """

    _ranks: ClassVar[tuple[int, ...]] = (4,)


class BatchRenorm3d(_BatchRenorm):
    """Batch normalization of volumes (N, C, D, H, W) whose training output is close to that of evaluation.

    y = act(((x - mean) / std * r + d) * weight + bias + residual), r and d as in `BatchRenorm1d`.

    Args:
        num_features: channels C. The other arguments are those of `BatchRenorm1d`.

    Call:
        layer(input, residual=None, *, act=None, mask=None); mask is (N, D, H, W).

    Raises:
        DimensionError: (ValueError) the input is not 5-D. The others are those of `BatchRenorm1d`.

    Example:
        >>> import torch, batchnorm as bn
        >>> bn.BatchRenorm3d(4)(torch.randn(2, 4, 3, 5, 5)).shape
        torch.Size([2, 4, 3, 5, 5])

    Source: Ioffe 2017, arXiv:1702.03275, algorithm 1 and section 3.
    """

    _ranks: ClassVar[tuple[int, ...]] = (5,)
