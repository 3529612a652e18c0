"""The (C,)-sized numbers of one call as one tensor, so that autograd saves and checks one instead of four.

Rows in wide dtype: mean, invstd, biased var, and the count in the first place of the last row; after a forward with
given statistics only mean and invstd, which is how backward knows that they were constants.

A call on the short path has them as an array of Python's, which costs a tenth of a tensor.
"""

from array import array
from typing import Any

import torch
from torch import Tensor

from batchnorm.errors import DtypeError, ShapeError
from batchnorm.moments import Moments

__all__ = [
    "BATCH_ROWS",
    "GIVEN_ROWS",
    "as_tensor",
    "blank",
    "check_unpacked",
    "is_from_batch",
    "join",
    "moments_of",
]

BATCH_ROWS, GIVEN_ROWS = 4, 2
_ZERO = array("d", [0.0])


def blank(rows: int, channels: int) -> "array[float]":
    """Memory for that many rows of float64."""
    return _ZERO * (rows * channels)


def as_tensor(rows: "Tensor | array[float]", channels: int) -> Tensor:
    """The same numbers as a tensor (rows, channels)."""
    return (
        rows if isinstance(rows, Tensor) else torch.frombuffer(rows, dtype=torch.float64).view(-1, channels)
    )


def join(batch: Moments, invstd: Tensor) -> Tensor:
    """The rows after a forward with batch statistics."""
    count = torch.as_tensor(batch.count).to(invstd).expand_as(invstd)
    return torch.stack([batch.mean, invstd, batch.var, count])


def is_from_batch(rows: Tensor) -> bool:
    """Whether these are the batch's own statistics, through which gradients flow."""
    return rows.size(0) == BATCH_ROWS


def moments_of(rows: Tensor, x: Tensor, masked: bool) -> Moments:
    """The moments of the batch x; the count is a tensor where a mask decided it."""
    mean, _, var, count = rows.unbind()
    if masked:
        return Moments(count[0], mean, var)
    return Moments(x.numel() // max(mean.numel(), 1), mean, var)


def check_unpacked(
    grad_output: Tensor,
    tensors: tuple[Any, ...],
    channel_dim: int,
    by_kernels: bool,
    parameter_dtype: torch.dtype | None,
) -> None:
    """A kernel believes what it is given, and hooks of the user's may give back other than what was saved."""
    x, weight, bias, second, mask = tensors
    shape, dtype, device = grad_output.shape, grad_output.dtype, grad_output.device
    row = (shape[channel_dim],)
    # The reference takes a mask of each channel, as virtual batches have it, and a residual of another dtype.
    of_each = not by_kernels and mask is not None and mask.shape == shape
    positions = shape if of_each else (*shape[:channel_dim], 1, *shape[channel_dim + 1 :])
    second_dtype = dtype if by_kernels or second is None else second.dtype
    for name, tensor, wanted_shape, wanted_dtype in (
        ("input", x, shape, dtype),
        ("residual or output", second, shape, second_dtype),
        ("weight", weight, row, parameter_dtype),
        ("bias", bias, row, parameter_dtype),
        ("mask", mask, positions, torch.bool),
    ):
        if tensor is None:
            continue
        placed = tensor.shape == wanted_shape and tensor.device == device
        if not placed or tensor.dtype is not wanted_dtype:
            raise (DtypeError if placed else ShapeError)(
                f"saved_tensors_hooks gave the {name} back as {tuple(tensor.shape)} {tensor.dtype} {tensor.device}, "
                f"not as {tuple(wanted_shape)} {wanted_dtype} {device}; unpack what was packed"
            )
