"""Checks of what callers pass, once, before anything is computed or changed."""

from collections.abc import Sequence
from typing import Any

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


def validate(
    x: Any, stats: RunningStats, affine: Affine, *, training: bool, eps: float, channel_dim: int
) -> tuple[int, Affine]:
    """Check all arguments of a call.

    Args:
        x: the input.
        stats: the running statistics.
        affine: what follows the standardization; its mask has x's shape without the channel dimension.
        training: whether batch statistics are used.
        eps: added to the variance.
        channel_dim: may be negative.

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
    if x.dim() < 2:
        raise ShapeError(f"expected an input of 2 or more dimensions, (N, C) at least, got {x.dim()}D input")
    if not -x.dim() <= channel_dim < x.dim():
        raise DimensionError(f"channel_dim must be from {-x.dim()} to {x.dim() - 1}, got {channel_dim}")
    if x.dtype not in _DTYPES:
        raise DtypeError(f"\"batch_norm\" not implemented for '{_names(x.dtype)}'; use {_names(*_DTYPES)}")
    channel_dim %= x.dim()
    _check_eps(eps, training)
    _check_running(stats, training)
    _check_channels(x.size(channel_dim), stats, affine)
    _check_affine_dtypes(x, affine)
    _check_residual(x, affine.residual)
    affine = affine._replace(weight=_flat(affine.weight), bias=_flat(affine.bias))
    if affine.mask is not None:
        return channel_dim, affine._replace(mask=_broadcast(affine.mask, x, channel_dim))
    if training and all(size == 1 for dim, size in enumerate(x.shape) if dim != channel_dim):
        raise BatchTooSmallError(
            f"Expected more than 1 value per channel when training, got input size {x.size()}. "
            "Use eval(), a larger batch, or drop_last=True in the DataLoader."
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


def _check_eps(eps: float, training: bool) -> None:
    if training and eps <= 0.0:
        raise ArgumentError(f"batch_norm eps must be positive during training, but got {eps}")
    if eps < 0.0:
        raise ArgumentError(f"batch_norm eps must be non-negative, but got {eps}")


def _check_running(stats: RunningStats, training: bool) -> None:
    if training and (stats.mean is None) != (stats.var is None):
        raise ArgumentError("running_mean and running_var must either both be None or neither be None")
    for name, buffer in (("running_mean", stats.mean), ("running_var", stats.var)):
        if buffer is None:
            if not training:
                raise ShapeError(f"{name} must be defined in evaluation mode")
        elif not buffer.is_floating_point():
            raise DtypeError(f"{name} must be floating, got {_names(buffer.dtype)}")


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
    for name in ("running_mean", "running_var"):
        buffer = named[name]
        if buffer is not None and buffer.dim() != 1:
            raise ShapeError(f"{name} should have the shape ({channels},), got {tuple(buffer.shape)}")


def _check_affine_dtypes(x: Tensor, affine: Affine) -> None:
    accepted = (x.dtype, torch.float32) if x.dtype in _REDUCED else (x.dtype,)
    for name, tensor in (("weight", affine.weight), ("bias", affine.bias)):
        if tensor is not None and tensor.dtype not in accepted:
            raise DtypeError(
                f"mixed dtype: expect parameter to have scalar type of {_names(*accepted)} for {_names(x.dtype)} "
                f"input, got {name} in {_names(tensor.dtype)}; cast the module or the input"
            )
    weight, bias = affine.weight, affine.bias
    if weight is not None and bias is not None and weight.dtype != bias.dtype:
        raise DtypeError(
            f"mixed dtype: weight is {_names(weight.dtype)} and bias {_names(bias.dtype)}; give both one type"
        )


def _check_residual(x: Tensor, residual: Any) -> None:
    if residual is None:
        return
    if not isinstance(residual, Tensor):
        raise ArgumentTypeError(f"residual must be a Tensor, not {type(residual).__name__}")
    if residual.shape != x.shape:
        raise ShapeError(
            f"residual should have the input's shape {tuple(x.shape)}, got {tuple(residual.shape)}"
        )
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
