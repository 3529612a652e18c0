"""The most common calls, checked in as few steps as Python allows: on small tensors those are most of a layer's time.

Taken are dense contiguous float32 tensors on the CPU in eager mode, two or more channels, in dimension 1, no mask, with
both running statistics and a momentum that is a number. A function here that answers None has computed and changed
nothing: the general path (`arguments`, `ops.choice`, `ops.native`) serves that call, or says what is wrong with it. The
kernels are the same there, and so is every bit of the result; `tests/ops/test_direct.py` holds it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from batchnorm._state import CHOICE
from batchnorm.activations import Activation
from batchnorm.moments import UNTRACKED
from batchnorm.ops import saved
from batchnorm.ops.eager import is_batched, is_eager
from batchnorm.ops.native import BATCH_STATISTICS, HUGE_OUTPUT_BYTES, run
from batchnorm.ops.reference import Gradients
from batchnorm.ops.shared_library import load

__all__ = ["backward", "evaluate", "forward"]

_CPU = torch.device("cpu")  # named, since the user may have set another default
_FLOAT32, _FLOAT64, _INT64, _STRIDED = torch.float32, torch.float64, torch.int64, torch.strided


def forward(
    x: Any,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    act: Activation | None,
    mean: Tensor | None,
    var: Tensor | None,
    counter: Tensor | None,
    momentum: float | None,
    eps: float,
) -> tuple[Tensor, Tensor] | None:
    """As `native.forward`, which moves these buffers, or None."""
    if momentum is None or not eps > 0.0 or not _takes(x, weight, bias, residual, mean, var):
        return None
    if counter is not None and (
        type(counter) is not Tensor
        or counter.dtype is not _INT64
        or not counter.is_cpu
        or counter.numel() != 1
    ):
        return None
    shape, values = x.shape, x.numel()
    outer, channels = shape[0], shape[1]
    # One value a channel is refused; what activation checkpointing repeats moves nothing (running.is_recomputed).
    if values == channels or torch._C._current_graph_task_id() != -1:
        return None
    output = torch.empty_like(x)
    rows = torch.empty(saved.BATCH_ROWS, channels, dtype=_FLOAT64, device=_CPU)
    run(
        "bn_forward", outer, channels, values // (outer * channels), x, residual, None, None, weight, bias, output,
        None, rows, None, None, None, (mean, var, counter), eps, momentum, act, False, _FLOAT32, 0,
    )  # fmt: skip
    assert mean is not None
    assert var is not None
    torch._C._increment_version([mean, var] if counter is None else [mean, var, counter])
    return output, rows


def evaluate(
    x: Any,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    act: Activation | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor] | None:
    """As `native.evaluate`, or None."""
    if not eps >= 0.0 or not _takes(x, weight, bias, residual, mean, var):
        return None
    shape = x.shape
    outer, channels = shape[0], shape[1]
    output = torch.empty_like(x)
    rows = torch.empty(saved.GIVEN_ROWS, channels, dtype=_FLOAT64, device=_CPU)
    run(
        "bn_evaluate", outer, channels, x.numel() // (outer * channels), x, residual, None, None, weight, bias, output,
        None, rows, None, None, None, (mean, var, None), eps, 0.0, act, False, _FLOAT32, 0,
    )  # fmt: skip
    return output, rows


def backward(
    grad_output: Tensor,
    x: Tensor,
    rows: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    second: Tensor | None,
    act: Activation | None,
    of_output: bool,
    needs: Sequence[bool],
) -> Gradients | None:
    """As `native.backward` after a forward from here, or None.

    `second` is what was saved: the forward's output where `of_output` says so, else the residual.
    """
    need_x, need_weight, need_bias, need_residual = needs[:4]
    # What was saved may come back changed, through hooks of the user's.
    if (
        not need_x
        or not is_eager()
        or not _is_dense(grad_output)
        or not _is_dense(x)
        or not (weight is None or _is_dense(weight))
        or not (bias is None or _is_dense(bias))
        or not (second is None or _is_dense(second))
        or is_batched(grad_output)
        or grad_output.shape != (shape := x.shape)
        or (second is not None and second.shape != shape)
        or (row := shape[1:2]) != rows.shape[1:]
        or (weight is not None and weight.shape != row)
        or (bias is not None and bias.shape != row)
    ):
        return None
    outer, channels = shape[0], shape[1]
    grad_x = torch.empty_like(x)
    grad_weight = torch.empty(channels, dtype=_FLOAT32, device=_CPU) if need_weight else None
    grad_bias = torch.empty(channels, dtype=_FLOAT32, device=_CPU) if need_bias else None
    grad_residual = grad_output if need_residual else None
    written = None
    if need_residual and act is not None:
        written = grad_residual = torch.empty_like(x)
    run(
        "bn_backward", outer, channels, x.numel() // (outer * channels), x, second, grad_output, None, weight, bias,
        grad_x, written, rows, None, grad_weight, grad_bias, UNTRACKED, 0.0, 0.0, act, of_output, _FLOAT32,
        BATCH_STATISTICS if saved.is_from_batch(rows) else 0,
    )  # fmt: skip
    return grad_x, grad_weight, grad_bias, grad_residual


def _takes(
    x: Any,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
) -> bool:
    if not is_eager() or CHOICE.backend == "reference" or type(load()) is str or not _is_dense(x):
        return False
    shape = x.shape
    if len(shape) < 2 or shape[1] == 1 or x.numel() == 0 or x.nbytes >= HUGE_OUTPUT_BYTES:
        return False
    row = shape[1:2]
    return (
        type(mean) is Tensor
        and type(var) is Tensor
        and mean.shape == row
        and var.shape == row
        and _is_dense(mean)
        and _is_dense(var)
        and (weight is None or (weight.shape == row and _is_dense(weight)))
        and (bias is None or (bias.shape == row and _is_dense(bias)))
        and (residual is None or (_is_dense(residual) and residual.shape == shape))
    )


def _is_dense(tensor: Any) -> bool:
    kind = type(tensor)
    return (
        (kind is Tensor or kind is Parameter)
        and tensor.dtype is _FLOAT32
        and tensor.is_cpu
        and tensor.layout is _STRIDED
        and tensor.is_contiguous()
    )
