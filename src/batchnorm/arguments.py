"""Checks of what callers pass, once, before anything is computed or changed."""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from batchnorm.errors import (
    ArgumentError,
    ArgumentTypeError,
    BatchTooSmallError,
    DimensionError,
    DtypeError,
    ShapeError,
)
from batchnorm.moments import RunningStats
from batchnorm.ops import Affine

__all__ = ["mask_of_lengths", "validate"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_REDUCED = (torch.bfloat16, torch.float16)

P = ParamSpec("P")
R = TypeVar("R")


def _known_to_tracers(check: Callable[P, R]) -> Callable[P, R]:
    """Keep torch.jit.trace, to which sizes are tensors, from warning: the checks hold for all that it takes."""

    @functools.wraps(check)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch._C._get_tracing_state() is None:
            return check(*args, **kwargs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit._trace.TracerWarning)
            return check(*args, **kwargs)

    return checked


@_known_to_tracers
def validate(
    x: Any,
    stats: RunningStats,
    affine: Affine,
    training: bool,
    momentum: float | None,
    eps: float,
    channel_dim: int,
    joined: bool = False,
) -> tuple[int, Affine]:
    """Check all arguments of a call.

    Args:
        x: the input.
        stats: the running statistics.
        affine: what follows the standardization; its mask has x's shape without the channel dimension.
        training: whether batch statistics are used.
        momentum: weight of the new batch, or None.
        eps: added to the variance.
        channel_dim: may be negative.
        joined: whether the statistics are those of x joined with others, so that one value a channel may be enough.

    Returns:
        The channel dimension as a non-negative index, and `affine` with weight and bias as (C,) and with a mask that
        broadcasts against x.

    Raises:
        As `batchnorm.functional.batch_norm` documents.
    """
    if not isinstance(x, Tensor):
        raise ArgumentTypeError(
            f"batch_norm(): argument 'input' (position 1) must be Tensor, not {type(x).__name__}"
        )
    rank, dtype = x.dim(), x.dtype
    if rank < 2:
        raise ShapeError(f"expected an input of 2 or more dimensions, (N, C) at least, got {rank}D input")
    if not -rank <= channel_dim < rank:
        raise DimensionError(f"channel_dim must be from {-rank} to {rank - 1}, got {channel_dim}")
    if dtype not in _DTYPES:
        raise DtypeError(f"\"batch_norm\" not implemented for '{_names(dtype)}'; use {_names(*_DTYPES)}")
    if x.layout is not torch.strided:
        raise ArgumentError(f"input must be a dense tensor, got layout {x.layout}; call to_dense()")
    if type(momentum) is not float and momentum is not None:
        _check_number("momentum", 7, momentum)
    if type(eps) is not float:
        _check_number("eps", 8, eps)
    if not eps > 0.0:  # nor is NaN
        _check_eps(eps, training)
    channel_dim %= rank
    channels = x.shape[channel_dim]
    _check_running(stats.mean, stats.var, channels, training)
    weight, bias, residual, _, mask = affine
    if weight is not None or bias is not None:
        _check_parameters(weight, bias, channels, dtype)
        if (weight is not None and weight.dim() != 1) or (bias is not None and bias.dim() != 1):
            affine = affine._replace(weight=_flat(weight), bias=_flat(bias))
    if residual is not None:
        _check_residual(x, residual)
    if mask is not None:
        return channel_dim, affine._replace(mask=_broadcast(mask, x, channel_dim))
    if (
        training
        and not joined
        and x.numel() <= channels
        and all(n == 1 for dim, n in enumerate(x.shape) if dim != channel_dim)
    ):
        raise BatchTooSmallError(
            f"Expected more than 1 value per channel when training, got input size {x.size()}. "
            "Use eval(), a larger batch, drop_last=True in the DataLoader, or FrozenBatchNorm."
        )
    return channel_dim, affine


def mask_of_lengths(x: Tensor, lengths: Tensor | Sequence[int], channel_dim: int) -> Tensor:
    """The mask (N, L) in which the first `lengths[n]` steps of sequence n are valid.

    Args:
        x: (N, C, L), or (N, L, C) with channel_dim -1.
        lengths: N integers from 0 to L. On an accelerator their values are not looked at, which would wait for it.
        channel_dim: 1 or -1.

    Raises:
        ArgumentError: they are not that.
    """
    if x.dim() != 3:
        raise ArgumentError(f"lengths belong to a batch of sequences, got input size {tuple(x.shape)}")
    given = torch.as_tensor(lengths)
    integers = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    if given.shape != x.shape[:1] or not integers:
        raise ArgumentError(
            f"lengths must be ({x.size(0)},) integers, got {tuple(given.shape)} {_names(given.dtype)}"
        )
    steps = x.size(2 if channel_dim == 1 else 1)
    if given.device.type == "cpu" and not torch.compiler.is_compiling():
        outside = given[(given < 0) | (given > steps)]
        if outside.numel():
            raise ArgumentError(f"lengths must be from 0 to {steps}, got {outside[0].item()}")
    return torch.arange(steps, device=x.device) < given.to(x.device).unsqueeze(1)


def _names(*dtypes: torch.dtype) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def _flat(parameter: Tensor | None) -> Tensor | None:
    return parameter if parameter is None or parameter.dim() == 1 else parameter.reshape(-1)


def _check_number(name: str, position: int, value: Any) -> None:
    # What torch takes as well: integers, scalars of numpy, tensors without dimensions.
    if not hasattr(type(value), "__float__") or (isinstance(value, Tensor) and value.dim() > 0):
        raise ArgumentTypeError(
            f"batch_norm(): argument '{name}' (position {position}) must be float, not {type(value).__name__}"
        )


def _check_eps(eps: float, training: bool) -> None:
    if training and not eps > 0.0:
        raise ArgumentError(f"batch_norm eps must be positive during training, but got {eps}")
    if not eps >= 0.0:
        raise ArgumentError(f"batch_norm eps must be non-negative, but got {eps}")


def _check_running(mean: Tensor | None, var: Tensor | None, channels: int, training: bool) -> None:
    if training and (mean is None) != (var is None):
        raise ArgumentError("running_mean and running_var must either both be None or neither be None")
    for name, buffer in (("running_mean", mean), ("running_var", var)):
        if buffer is None:
            if not training:
                raise ShapeError(f"{name} must be defined in evaluation mode")
            continue
        if not buffer.is_floating_point():
            raise DtypeError(f"{name} must be floating, got {_names(buffer.dtype)}")
        if buffer.shape != (channels,):
            _check_size(name, buffer, channels)
            raise ShapeError(f"{name} should have the shape ({channels},), got {tuple(buffer.shape)}")


def _check_parameters(weight: Tensor | None, bias: Tensor | None, channels: int, dtype: torch.dtype) -> None:
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is None:
            continue
        _check_size(name, parameter, channels)
        given = parameter.dtype
        if given is not dtype and not (dtype in _REDUCED and given is torch.float32):
            accepted = (dtype, torch.float32) if dtype in _REDUCED else (dtype,)
            raise DtypeError(
                f"mixed dtype: expect parameter to have scalar type of {_names(*accepted)} for {_names(dtype)} "
                f"input, got {name} in {_names(given)}; cast the module or the input"
            )
    if weight is not None and bias is not None and weight.dtype is not bias.dtype:
        raise DtypeError(
            f"mixed dtype: weight is {_names(weight.dtype)} and bias {_names(bias.dtype)}; give both one type"
        )


def _check_size(name: str, tensor: Tensor, channels: int) -> None:
    if tensor.numel() != channels:
        raise ShapeError(f"{name} should contain {channels} elements not {tensor.numel()}")


def _check_residual(x: Tensor, residual: Any) -> None:
    if not isinstance(residual, Tensor):
        raise ArgumentTypeError(f"residual must be a Tensor, not {type(residual).__name__}")
    if residual.shape != x.shape:
        raise ShapeError(
            f"residual should have the input's shape {tuple(x.shape)}, got {tuple(residual.shape)}"
        )
    if residual.layout is not torch.strided:
        raise ArgumentError(f"residual must be a dense tensor, got layout {residual.layout}; call to_dense()")
    if residual.dtype not in _DTYPES:
        raise DtypeError(f"residual must be one of {_names(*_DTYPES)}, got {_names(residual.dtype)}")


def _broadcast(mask: Any, x: Tensor, channel_dim: int) -> Tensor:
    if not isinstance(mask, Tensor):
        raise ArgumentTypeError(f"mask must be a bool Tensor, not {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise ArgumentError(f"mask must be bool with True = valid, got {_names(mask.dtype)}")
    positions = (*x.shape[:channel_dim], *x.shape[channel_dim + 1 :])
    try:
        expanded = mask.expand(positions)
    except RuntimeError:
        raise ArgumentError(
            f"mask must broadcast to the input's shape without its channel dimension, {positions}, "
            f"got {tuple(mask.shape)}"
        ) from None
    return expanded.unsqueeze(channel_dim)
