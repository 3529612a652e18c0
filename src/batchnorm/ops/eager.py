"""Tell dense tensors in eager mode from everything that watches, transforms or stands in for them."""

import contextlib

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.utils._python_dispatch import (
    _disable_current_modes,
    _get_current_dispatch_mode,
    _get_current_dispatch_mode_stack,
)
from torch.utils.checkpoint import _CachedTorchDispatchMode, _CachingTorchDispatchMode

__all__ = [
    "in_function_transform",
    "is_batched",
    "is_eager",
    "is_plain",
    "unseen_by_selective_checkpointing",
]

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)
# Every call asks; the way from torch to them costs more than they do.
_transforms_active, _tracing_state = torch._C._are_functorch_transforms_active, torch._C._get_tracing_state


def in_function_transform() -> bool:
    """Whether a torch.func transform (vmap, grad, jvp, ...) is running."""
    active: bool = torch._C._are_functorch_transforms_active()  # which torch.compile reads too
    return active


def is_batched(grad_output: Tensor) -> bool:
    """Whether `torch.autograd.grad(..., is_grads_batched=True)` passed this: a Tensor without memory of its own."""
    batched: bool = torch._C._functorch.is_legacy_batchedtensor(grad_output)
    return batched


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether these are dense tensors in eager mode, with memory that holds their values.

    Not so under tracers, torch.func transforms, forward AD and dispatch modes, and for subclasses: those see the
    operators themselves in plain torch, one after the other, whatever the sizes are. Nor for a view that torch negates
    when it reads it, such as the imaginary part of a conjugate, nor for the zeros without memory of autograd's.
    """
    for tensor in tensors:
        if tensor is not None and type(tensor) not in _PLAIN_TYPES:
            return False
    return is_eager() and not any(
        tensor is not None and (tensor.is_neg() or tensor._is_zerotensor()) for tensor in tensors
    )


def is_eager() -> bool:
    """Whether nothing traces, transforms or watches the operators that run now."""
    return (
        not is_compiling()
        and not _transforms_active()
        and forward_ad._current_level < 0
        and _get_current_dispatch_mode() is None
        and not _tracing_state()
    )


def unseen_by_selective_checkpointing() -> contextlib.AbstractContextManager[object]:
    """For what it must neither cache nor take from its cache: it pairs the operators of both passes one by one."""
    if torch.compiler.is_compiling() or not any(
        isinstance(mode, (_CachingTorchDispatchMode, _CachedTorchDispatchMode))
        for mode in _get_current_dispatch_mode_stack()
    ):
        return contextlib.nullcontext()
    return _disable_current_modes()
