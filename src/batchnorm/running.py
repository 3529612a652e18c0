"""Running statistics: how a batch moves them, and when it does not."""

from collections.abc import Sequence

import torch
from torch import Tensor

from batchnorm.errors import TransformError
from batchnorm.moments import Moments, RunningStats
from batchnorm.ops import in_function_transform, unseen_by_selective_checkpointing, wide_dtype

__all__ = ["blend", "is_recomputed", "track", "track_values"]


def is_recomputed() -> bool:
    """Whether this forward is one that activation checkpointing repeats: its batch has been counted.

    Inside a backward pass every forward is taken for such a repetition.
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def track(stats: RunningStats, batch: Moments, momentum: float | None) -> None:
    """Move the buffers that are not None towards the batch's moments, in place, and tick the counter.

    Args:
        stats: the buffers.
        batch: moments of the batch.
        momentum: weight of the batch; None for 1 / num_batches_tracked (0 without a counter).

    Raises:
        TransformError: (RuntimeError) a torch.func transform did not get the buffers; nothing was moved.
    """
    # The second pass of checkpointing does not track.
    with torch.no_grad(), unseen_by_selective_checkpointing():
        _write(stats, *_moved(stats, (batch.mean, batch.unbiased_var()), batch.count, momentum))


def track_values(
    stats: RunningStats, values: Sequence[Tensor], count: int | Tensor, momentum: float | None
) -> None:
    """As `track`, towards any two numbers a channel: what a layer averages in place of mean and variance.

    Args:
        stats: the buffers.
        values: (C,) each, what the first and the second buffer average.
        count: values a channel behind them.
        momentum: as in `track`.

    Raises:
        TransformError: as `track`.
    """
    with torch.no_grad(), unseen_by_selective_checkpointing():
        _write(stats, *_moved(stats, values, count, momentum))


def blend(
    running_mean: Tensor, running_var: Tensor, batch: Moments, momentum: float | Tensor
) -> tuple[Tensor, Tensor]:
    """The running statistics after this batch.

    A channel keeps its own where the batch's are not finite in the buffers' dtype.
    """
    values = batch.mean, batch.unbiased_var()
    return _averaged((running_mean, running_var), values, batch.count, momentum)


def _averaged(
    buffers: tuple[Tensor, Tensor],
    values: Sequence[Tensor],
    count: int | Tensor,
    momentum: float | Tensor,
) -> tuple[Tensor, Tensor]:
    if not isinstance(count, Tensor) and count == 0:
        return buffers
    usable = torch.isfinite(values[0].to(buffers[0].dtype)) & torch.isfinite(values[1].to(buffers[1].dtype))
    if isinstance(count, Tensor):
        usable = usable & (count > 1)
    wide = values[0].dtype
    moved = [
        torch.where(usable, (1 - momentum) * old.to(wide) + momentum * new, old.to(wide)).to(old.dtype)
        for old, new in zip(buffers, values, strict=True)
    ]
    return moved[0].detach(), moved[1].detach()


def _moved(
    stats: RunningStats, values: Sequence[Tensor], count: int | Tensor, momentum: float | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    counter = _ticked(stats.num_batches_tracked, count, momentum)
    if stats.mean is None or stats.var is None:
        return None, None, counter
    weight: float | Tensor = 0.0 if momentum is None else momentum
    if momentum is None and counter is not None:
        weight = 1.0 / counter.to(wide_dtype(values[0])).clamp(min=1)
    return *_averaged((stats.mean, stats.var), values, count, weight), counter


def _ticked(counter: Tensor | None, count: int | Tensor, momentum: float | None) -> Tensor | None:
    """The counter after this batch. A batch without statistics would weigh in a cumulative average as 0 and 1 do."""
    if counter is None:
        return None
    if isinstance(count, Tensor):
        return counter + (count > 1).to(counter.dtype)
    return counter if count == 0 and momentum is None else counter + 1


def _write(stats: RunningStats, *new: Tensor | None) -> None:
    """All is computed by now: an error (a transform that did not get the buffers) leaves every buffer as it was."""
    try:
        for buffer, value in zip(stats, new, strict=True):
            if buffer is not None and value is not None:
                buffer.copy_(value)
    except RuntimeError as error:
        if not in_function_transform():
            raise
        raise TransformError(
            "batch norm in training updates buffers that this torch.func transform did not get; pass them through "
            "torch.func.functional_call, mapped as the input is, use batchnorm.functional.batch_norm_with_stats, keep "
            "them still with batchnorm.no_stats_update, or call eval()"
        ) from error
