"""How tensors lie in memory: the form of the output, and the (outer, channels, inner) that kernels see."""

import torch
from torch import Tensor

from batchnorm.ops.eager import in_function_transform

__all__ = ["Dense", "dense", "form_of", "like_input"]

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def form_of(x: Tensor) -> torch.memory_format:
    """The memory format that torch gives batch norm's output: channels_last like x, else contiguous."""
    form = _CHANNELS_LAST.get(x.dim())
    if form is not None and x.is_contiguous(memory_format=form):
        return form
    return torch.contiguous_format


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
    channels, values = x.shape[channel_dim], x.numel()
    # Of one channel the stride says nothing.
    inner = values if channels == 1 else x.stride(channel_dim)
    return x, form, values // (channels * inner), channels, inner
