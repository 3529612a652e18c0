"""Batch normalization as functions."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from batchnorm import autograd, sync
from batchnorm.activations import ActivationLike, resolve
from batchnorm.arguments import validate
from batchnorm.errors import ArgumentTypeError
from batchnorm.moments import UNTRACKED, RunningStats
from batchnorm.ops import Affine
from batchnorm.reducers import GroupReducer
from batchnorm.running import blend, is_recomputed

__all__ = ["batch_norm", "batch_norm_with_stats", "normalize_and_track"]

P = ParamSpec("P")
R = TypeVar("R")


def _overridable(function: Callable[P, R]) -> Callable[P, R]:
    """Let what stands in for tensors (an fx Proxy, a subclass) take the call, by torch's protocol for that."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = (*args, *kwargs.values())
        if has_torch_function(given):
            result: R = handle_torch_function(call, given, *args, **kwargs)
            return result
        return function(*args, **kwargs)

    return call


@_overridable
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
        ArgumentError: (ValueError) eps, mask or act is not as above, one running statistic is None, or the input or
            residual is sparse.
        ArgumentTypeError: (TypeError) an argument is of another type.
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
    _refuse_no_momentum(momentum)
    act = resolve(act)
    if mask is None:
        output = autograd.normalize_directly(
            input, weight, bias, residual, act, running_mean, running_var, None, training, momentum, eps, channel_dim
        )  # fmt: skip
        if output is not None:
            return output
    return normalize_and_track(
        input,
        RunningStats(running_mean, running_var),
        Affine(weight, bias, residual, act, mask),
        training=training,
        momentum=momentum,
        eps=eps,
        channel_dim=channel_dim,
    )


@_overridable
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
    _refuse_no_momentum(momentum)
    stats = RunningStats(running_mean, running_var)
    affine = Affine(weight, bias, residual, resolve(act), mask)
    input, shape = _with_channels(input)
    channel_dim, affine = validate(input, stats, affine, training, momentum, eps, channel_dim)
    if training:
        output, batch = autograd.normalize_with_batch(input, affine, eps, channel_dim)
        running_mean, running_var = blend(running_mean, running_var, batch, momentum)
    else:
        output = autograd.normalize_with_given(input, running_mean, running_var, affine, eps, channel_dim)
    return (output if shape is None else output.reshape(shape)), running_mean, running_var


def _refuse_no_momentum(momentum: float | None) -> None:
    if momentum is None:
        raise ArgumentTypeError(
            "batch_norm(): argument 'momentum' (position 7) must be float, not NoneType; the cumulative average needs "
            "a counter, which the layers have"
        )


def normalize_and_track(
    input: Tensor,
    stats: RunningStats,
    affine: Affine,
    training: bool,
    momentum: float | None,
    eps: float,
    channel_dim: int,
    reducer: GroupReducer | None = None,
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
        reducer: in training, merges the statistics of the ranks that take part; None for those of input alone.

    Returns:
        Tensor of input's shape and dtype.

    Raises:
        As `batch_norm`; with a reducer as `sync.normalize_and_track` too.
    """
    input, shape = _with_channels(input)
    channel_dim, affine = validate(
        input, stats, affine, training, momentum, eps, channel_dim, joined=reducer is not None
    )
    if training:
        # What activation checkpointing repeats has been counted.
        moved = UNTRACKED if is_recomputed() else stats
        if reducer is None:
            output = autograd.normalize_and_track(input, affine, eps, channel_dim, moved, momentum)
        else:
            output = sync.normalize_and_track(input, affine, eps, channel_dim, moved, momentum, reducer)
    else:
        assert stats.mean is not None
        assert stats.var is not None
        output = autograd.normalize_with_given(input, stats.mean, stats.var, affine, eps, channel_dim)
    return output if shape is None else output.reshape(shape)


def _with_channels(input: Tensor) -> tuple[Tensor, torch.Size | None]:
    """Give (0,), which torch takes as no values of no channels, its dimensions; return the shape to go back to."""
    if isinstance(input, Tensor) and input.dim() == 1 and input.numel() == 0:
        return input.reshape(0, 0), input.shape
    return input, None
