"""Batch normalization as functions; every argument is validated here, once."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from batchnorm.activations import ActivationLike, resolve
from batchnorm.autograd import in_function_transform, normalize_with_batch, normalize_with_given
from batchnorm.errors import (
    ArgumentError,
    BatchTooSmallError,
    DimensionError,
    DtypeError,
    ShapeError,
    TransformError,
)
from batchnorm.moments import Moments
from batchnorm.ops import Affine, wide_dtype

__all__ = ["RunningStats", "batch_norm", "batch_norm_with_stats", "normalize_and_track"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_REDUCED = (torch.bfloat16, torch.float16)


class RunningStats(NamedTuple):
    """The buffers of a layer: running mean and variance (C,), and the counter of batches."""

    mean: Tensor | None
    var: Tensor | None
    num_batches_tracked: Tensor | None = None


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    act: ActivationLike = None,
    mask: Tensor | None = None,
    channel_dim: int = 1,
) -> Tensor:
    """Normalize each channel over the batch, then scale, shift, add a residual and apply an activation.

    y = act((x - mean) / sqrt(var + eps) * weight + bias + residual)

    In training, mean and biased variance are those of the batch, and the running statistics move towards them:
    running = (1 - momentum) * running + momentum * batch, the variance with count / (count - 1). In evaluation they
    are the running statistics. A channel whose batch has NaN or infinite statistics keeps its running ones, and a
    forward that activation checkpointing repeats during the backward pass moves nothing.

    Args:
        input: (N, C, *), float32, float64, bfloat16 or float16; sums are taken in float64.
        running_mean: (C,) any floating dtype, updated in place in training; None to use the batch only.
        running_var: (C,), as running_mean.
        weight: (C,), of input's dtype, or float32 for half-precision input; default 1.
        bias: (C,), as weight; default 0.
        training: use and track the batch's statistics.
        momentum: weight of the new batch.
        eps: added to the variance, in its unit.
        residual: shape of input; added before the activation.
        act: None, a name ("relu", "relu6", "leaky_relu", "silu", "gelu", "gelu_tanh", "hardswish", "elu"), or the
            torch module.
        mask: bool, True = valid, shape of input without its channel dimension (or broadcastable to it). Invalid
            positions count in no statistic, give 0, and pass no gradient.
        channel_dim: which dimension holds the channels; -1 for (N, L, C).

    Returns:
        Tensor of input's shape and dtype.

    Raises:
        BatchTooSmallError: (ValueError) training with one value a channel.
        ArgumentError: (ValueError) eps, mask or act is not as above, or one running statistic is None.
        ShapeError: (RuntimeError) the input has no channel dimension, or a (C,) argument or the residual another size.
        DtypeError: (NotImplementedError, a RuntimeError) input is not floating, or dtypes do not go together.
        TransformError: (RuntimeError) training under torch.func with buffers that the transform did not get.

    Example:
        >>> import torch, batchnorm as bn
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> bn.functional.batch_norm(x, None, None, training=True, eps=1e-12)
        tensor([[-1.],
                [ 1.]])

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2.
    """
    tensors = (input, running_mean, running_var, weight, bias, residual, mask)
    if has_torch_function(tensors):
        result: Tensor = handle_torch_function(
            batch_norm,
            tensors,
            input,
            running_mean,
            running_var,
            weight=weight,
            bias=bias,
            training=training,
            momentum=momentum,
            eps=eps,
            residual=residual,
            act=act,
            mask=mask,
            channel_dim=channel_dim,
        )
        return result
    return normalize_and_track(
        input,
        RunningStats(running_mean, running_var),
        Affine(weight, bias, residual, resolve(act), mask),
        training=training,
        momentum=momentum,
        eps=eps,
        channel_dim=channel_dim,
    )


def batch_norm_with_stats(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    act: ActivationLike = None,
    mask: Tensor | None = None,
    channel_dim: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize as `batch_norm` does, and return the new running statistics instead of writing them.

    Nothing is changed in place, so it works under torch.func.vmap, grad and jacrev.

    Args:
        input: see `batch_norm`, as are all other arguments.
        running_mean: (C,), read only.
        running_var: (C,), read only.

    Returns:
        output, new_running_mean, new_running_var; the last two in the dtype of the given ones and without gradient. In
        evaluation they are the given ones.

    Raises:
        As `batch_norm`, except TransformError.

    Example:
        >>> import torch, batchnorm as bn
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> bn.functional.batch_norm_with_stats(x, torch.zeros(1), torch.ones(1), training=True)[1]
        tensor([0.2000])

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2.
    """
    affine = Affine(weight, bias, residual, resolve(act), mask)
    stats = RunningStats(running_mean, running_var)
    channel_dim, affine = _validate(input, stats, affine, training, eps, channel_dim)
    if not training:
        output = normalize_with_given(input, running_mean, running_var, affine, eps, channel_dim)
        return output, running_mean, running_var
    output, batch = normalize_with_batch(input, affine, eps, channel_dim)
    return output, *_blend(running_mean, running_var, batch, momentum)


def normalize_and_track(
    input: Tensor,
    stats: RunningStats,
    affine: Affine,
    *,
    training: bool,
    momentum: float | None,
    eps: float,
    channel_dim: int,
) -> Tensor:
    """Do what `batch_norm` documents, and tick the counter too; `momentum=None` is the cumulative average.

    Args:
        input: see `batch_norm`.
        stats: buffers; those that are not None are moved in training.
        affine: what follows the standardization, its mask without a channel dimension.
        training: use and track the batch's statistics.
        momentum: weight of the new batch; None for 1 / num_batches_tracked (0 without a counter).
        eps: added to the variance.
        channel_dim: which dimension holds the channels.

    Returns:
        Tensor of input's shape and dtype.

    Raises:
        As `batch_norm`.
    """
    if isinstance(input, Tensor) and input.dim() == 1 and input.numel() == 0:
        return input.clone()  # torch's functional takes (0,) for "no channels at all"
    channel_dim, affine = _validate(input, stats, affine, training, eps, channel_dim)
    if not training:
        assert stats.mean is not None
        assert stats.var is not None
        return normalize_with_given(input, stats.mean, stats.var, affine, eps, channel_dim)
    tracked = [buffer for buffer in stats if buffer is not None]
    if tracked:
        _refuse_untracked_transform(tracked)
    output, batch = normalize_with_batch(input, affine, eps, channel_dim)
    if tracked and not _is_recomputed():
        with torch.no_grad():
            _track(stats, batch, momentum)
    return output


def _track(stats: RunningStats, batch: Moments, momentum: float | None) -> None:
    empty = isinstance(batch.count, int) and batch.count == 0
    weight: float | Tensor = 0.0 if momentum is None else momentum
    if stats.num_batches_tracked is not None and not (empty and momentum is None):
        stats.num_batches_tracked.add_(1)
        if momentum is None:
            weight = 1.0 / stats.num_batches_tracked.to(wide_dtype(batch.mean))
    if stats.mean is not None and stats.var is not None and not empty:
        mean, var = _blend(stats.mean, stats.var, batch, weight)
        stats.mean.copy_(mean)
        stats.var.copy_(var)


def _blend(
    running_mean: Tensor, running_var: Tensor, batch: Moments, momentum: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Move the running statistics, leaving a channel alone where the batch's are not finite in the buffers' dtype."""
    if isinstance(batch.count, int) and batch.count == 0:
        return running_mean, running_var
    wide = batch.mean.dtype
    var = batch.unbiased_var()
    usable = torch.isfinite(batch.mean.to(running_mean.dtype)) & torch.isfinite(var.to(running_var.dtype))
    if isinstance(batch.count, Tensor):
        usable = usable & (batch.count > 1)
    moved = [
        torch.where(usable, (1 - momentum) * old.to(wide) + momentum * new, old.to(wide)).to(old.dtype)
        for old, new in ((running_mean, batch.mean), (running_var, var))
    ]
    return moved[0].detach(), moved[1].detach()


def _is_recomputed() -> bool:
    # Inside a backward pass a forward is one that activation checkpointing repeats: its batch has been counted.
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _refuse_untracked_transform(buffers: list[Tensor]) -> None:
    if torch.compiler.is_compiling() or not in_function_transform():
        return
    if not all(torch._C._functorch.is_functorch_wrapped_tensor(buffer) for buffer in buffers):
        raise TransformError(
            "batch norm in training updates buffers that this torch.func transform did not get; pass them through "
            "torch.func.functional_call, use batchnorm.functional.batch_norm_with_stats, or call eval()"
        )


def _validate(
    x: Tensor, stats: RunningStats, affine: Affine, training: bool, eps: float, channel_dim: int
) -> tuple[int, Affine]:
    """Check everything; return the channel dimension as a non-negative index and the mask ready to broadcast."""
    if not isinstance(x, Tensor):
        raise TypeError(f"batch_norm(): argument 'input' (position 1) must be Tensor, not {type(x).__name__}")
    if x.dim() < 2:
        raise ShapeError(f"expected an input of 2 or more dimensions, (N, C) at least, got {x.dim()}D input")
    if not -x.dim() <= channel_dim < x.dim():
        raise DimensionError(f"channel_dim must be from {-x.dim()} to {x.dim() - 1}, got {channel_dim}")
    if x.dtype not in _DTYPES:
        raise DtypeError(f"\"batch_norm\" not implemented for '{x.dtype}'; use {_names(_DTYPES)}")
    channel_dim %= x.dim()
    _check_eps(eps, training)
    _check_running(stats, training)
    _check_channels(x.size(channel_dim), stats, affine)
    _check_affine_dtypes(x, affine)
    if affine.residual is not None and affine.residual.shape != x.shape:
        raise ShapeError(
            f"residual should have the input's shape {tuple(x.shape)}, got {tuple(affine.residual.shape)}"
        )
    if affine.mask is not None:
        return channel_dim, affine._replace(mask=_broadcast_mask(affine.mask, x, channel_dim))
    if training and x.numel() == x.size(channel_dim) != 0:
        raise BatchTooSmallError(
            f"Expected more than 1 value per channel when training, got input size {x.size()}. "
            "Use eval(), a larger batch, or drop_last=True in the DataLoader."
        )
    return channel_dim, affine


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def _check_eps(eps: float, training: bool) -> None:
    if training and eps <= 0.0:
        raise ArgumentError(f"batch_norm eps must be positive during training, but got {eps}")
    if eps < 0.0:
        raise ArgumentError(f"batch_norm eps must be non-negative, but got {eps}")


def _check_running(stats: RunningStats, training: bool) -> None:
    if training:
        if (stats.mean is None) != (stats.var is None):
            raise ArgumentError("running_mean and running_var must either both be None or neither be None")
        return
    for name, buffer in (("running_mean", stats.mean), ("running_var", stats.var)):
        if buffer is None:
            raise ShapeError(f"{name} must be defined in evaluation mode")


def _check_channels(channels: int, stats: RunningStats, affine: Affine) -> None:
    named = {
        "running_mean": stats.mean,
        "running_var": stats.var,
        "weight": affine.weight,
        "bias": affine.bias,
    }
    for name, tensor in named.items():
        if tensor is not None and tensor.numel() != channels:
            raise ShapeError(f"{name} should contain {channels} elements not {tensor.numel()}")


def _check_affine_dtypes(x: Tensor, affine: Affine) -> None:
    accepted = (x.dtype, torch.float32) if x.dtype in _REDUCED else (x.dtype,)
    for name, tensor in (("weight", affine.weight), ("bias", affine.bias)):
        if tensor is not None and tensor.dtype not in accepted:
            raise DtypeError(
                f"mixed dtype: expect parameter to have scalar type of {_names(accepted)} for {_names((x.dtype,))} "
                f"input, got {name} in {_names((tensor.dtype,))}; cast the module or the input"
            )


def _broadcast_mask(mask: Tensor, x: Tensor, channel_dim: int) -> Tensor:
    if mask.dtype != torch.bool:
        raise ArgumentError(f"mask must be bool with True = valid, got {mask.dtype}")
    positions = (*x.shape[:channel_dim], *x.shape[channel_dim + 1 :])
    try:
        expanded = mask.expand(positions)
    except RuntimeError:
        raise ArgumentError(
            f"mask must broadcast to the input's shape without its channel dimension, {positions}, "
            f"got {tuple(mask.shape)}"
        ) from None
    return expanded.unsqueeze(channel_dim)
