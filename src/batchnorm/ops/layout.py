"""How tensors lie in memory: the form of the output, and the (outer, channels, inner) that kernels see."""

import torch
from torch import Tensor

from batchnorm.ops.eager import in_function_transform

__all__ = ["CHANNELS_LAST", "Dense", "dense", "form_of", "geometry", "like_input"]

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def form_of(x: Tensor) -> torch.memory_format:
    """The memory format that torch gives batch norm's output: channels_last where x is a part of such a tensor too."""
    form = CHANNELS_LAST.get(x.dim())
    if form is None or in_function_transform():  # vmap does not answer
        return torch.contiguous_format
    if x.is_contiguous(memory_format=form) or (not x.is_contiguous() and _is_cut_from_channels_last(x)):
        return form
    return torch.contiguous_format


def _is_cut_from_channels_last(x: Tensor) -> bool:
    # c10::is_channels_last_strides_2d, which Python does not have.
    strides, reach = x.stride(), 0
    if strides[1] == 0:
        return False
    for dim in (1, *range(x.dim() - 1, 1, -1), 0):
        if strides[dim] < reach or (dim == 0 and reach == strides[1]):
            return False
        reach = strides[dim] * max(x.size(dim), 1)
    return True


def like_input(x: Tensor, output: Tensor) -> Tensor:
    """Give the output that memory format; under a torch.func transform, where none can be asked for, as it is."""
    return output if in_function_transform() else output.contiguous(memory_format=form_of(x))


# A tensor without gaps, its memory format, and the outer, channels and inner that a kernel sees.
Dense = tuple[Tensor, torch.memory_format, int, int, int]


def dense(x: Tensor, channel_dim: int) -> Dense:
    """Describe x, or a copy of it where it is neither contiguous nor channels_last."""
    if x.is_contiguous():
        form = torch.contiguous_format
    else:
        form = form_of(x)
        x = x.contiguous(memory_format=form)
    return x, form, *geometry(x, channel_dim)


def geometry(x: Tensor, channel_dim: int) -> tuple[int, int, int]:
    """The outer, channels and inner of a tensor without gaps."""
    channels, values = x.shape[channel_dim], x.numel()
    # Of one channel the stride says nothing.
    inner = values if channels == 1 else x.stride()[channel_dim]
    return values // (channels * inner), channels, inner
