"""The most common calls, checked in as few steps as Python allows: on small tensors those are most of a layer's time.

Taken are dense tensors on the CPU in eager mode, contiguous or channels_last, of every type that the kernels have,
without a mask, with running statistics of both kinds and a momentum that is a float. A function here that answers None
has computed and changed nothing: the general path (`arguments`, `ops.choice`, `ops.native`) serves that call, or says
what is wrong with it. The kernels are the same there, and so is every bit of the result; `tests/ops/test_direct.py`
holds it.
"""

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from batchnorm._state import CHOICE
from batchnorm.activations import Activation
from batchnorm.ops import saved
from batchnorm.ops.eager import is_batched, is_eager
from batchnorm.ops.layout import CHANNELS_LAST, geometry
from batchnorm.ops.memory import empty_like
from batchnorm.ops.native import BATCH_STATISTICS, CALL, act_code, failed
from batchnorm.ops.openmp import thread_count
from batchnorm.ops.recognition import Recognition
from batchnorm.ops.reference import Gradients
from batchnorm.ops.shared_library import TYPES, load, require

__all__ = ["backward", "evaluate", "forward"]

# An attribute of torch costs as much as a comparison.
_FLOAT32, _INT64, _STRIDED = torch.float32, torch.int64, torch.strided
_CONTIGUOUS = torch.contiguous_format
_graph_task = torch._C._current_graph_task_id
_pack = CALL.pack

# Of the input, and what weight and bias may be with it.
_PARAMETER_TYPES = {
    torch.float32: (torch.float32,),
    torch.float64: (torch.float64,),
    torch.bfloat16: (torch.bfloat16, torch.float32),
    torch.float16: (torch.float16, torch.float32),
}
_RUNNING_TYPES = (torch.float32, torch.float64)


class _Kind(NamedTuple):
    """What the kernels are told of a call whose tensors are of one kind."""

    channel_dim: int
    geometry: tuple[int, int, int]  # outer, channels, inner
    types: tuple[int, int, int]  # of the values, the parameters and the running statistics


_forwards: Recognition[_Kind] = Recognition()
_backwards: Recognition[_Kind] = Recognition()
# What there is beside x and the weight: part of a key, so that tensors are compared with as many.
_SECOND, _COUNTER, _BIAS, _ADDRESS = 1, 2, 4, 8


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
    channel_dim: int,
) -> "tuple[Tensor, array[float]] | None":
    """As `native.forward`, which moves these buffers, with rows as `saved.blank` makes them; or None."""
    if type(momentum) is not float or type(eps) is not float or not eps > 0.0:
        return None
    if (seen := _seen(x, weight, bias, residual, mean, var, counter, channel_dim)) is None:
        return None
    inputs, buffers, types = seen
    outer, channels, inner = inputs[:3]
    # One value a channel is refused; what activation checkpointing repeats moves nothing (running.is_recomputed).
    if outer * inner == 1 or _graph_task() != -1:
        return None
    output, rows = empty_like(x), saved.blank(saved.BATCH_ROWS, channels)
    first, step = rows.buffer_info()[0], 8 * channels
    call = _pack(
        *inputs, output.data_ptr(), 0,
        first, first + 2 * step, first + step, first + 3 * step, 0, 0, 0, 0,
        *buffers, eps, momentum, 0.0 if act is None else act.parameter,
        *types, 0 if act is None else act_code(act), 0, thread_count(),
    )  # fmt: skip
    if require().functions.bn_forward(call):
        raise failed("bn_forward")
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
    momentum: float | None,
    eps: float,
    channel_dim: int,
) -> "tuple[Tensor, array[float]] | None":
    """As `native.evaluate`, with rows as `saved.blank` makes them; or None. The momentum is looked at, not used."""
    if not (momentum is None or type(momentum) is float) or type(eps) is not float or not eps >= 0.0:
        return None
    if (seen := _seen(x, weight, bias, residual, mean, var, None, channel_dim)) is None:
        return None
    inputs, buffers, types = seen
    channels = inputs[1]
    output, rows = empty_like(x), saved.blank(saved.GIVEN_ROWS, channels)
    first = rows.buffer_info()[0]
    call = _pack(
        *inputs, output.data_ptr(), 0,
        first, 0, first + 8 * channels, 0, 0, 0, 0, 0,
        *buffers, eps, 0.0, 0.0 if act is None else act.parameter, *types, 0 if act is None else act_code(act), 0,
        thread_count(),
    )  # fmt: skip
    if require().functions.bn_evaluate(call):
        raise failed("bn_evaluate")
    return output, rows


def backward(
    grad_output: Tensor,
    x: Tensor,
    rows: "array[float]",
    weight: Tensor | None,
    bias: Tensor | None,
    second: Tensor | None,
    act: Activation | None,
    of_output: bool,
    needs: Sequence[bool],
    parameter_dtype: torch.dtype | None,
    channel_dim: int,
) -> Gradients | None:
    """As `native.backward` after a forward from here, or None.

    `second` is what was saved: the forward's output where `of_output` says so, else the residual.
    """
    need_x, need_weight, need_bias, need_residual = needs[:4]
    if not need_x or (need_bias and weight is None) or not is_eager() or is_batched(grad_output):
        return None
    if weight is not None and type(weight) is not Parameter and type(weight) is not Tensor:
        return None
    # What was saved may come back changed, through hooks of the user's.
    weight_at = 0 if weight is None else weight.data_ptr()
    tensors: tuple[Any, ...] = (grad_output, x, weight)
    key = _ADDRESS * weight_at
    if bias is not None:
        tensors, key = (*tensors, bias), key + _BIAS
    if second is not None:
        tensors, key = (*tensors, second), key + _SECOND
    kind = _backwards.find(key, tensors)
    if kind is None or kind.channel_dim != channel_dim or kind.types[1] != TYPES[parameter_dtype or _FLOAT32]:
        kind = _kind_of_backward(grad_output, x, weight, bias, second, parameter_dtype, channel_dim)
        if kind is None:
            return None
        if weight is not None and second is not x:
            _backwards.keep(key, tensors, kind)
    outer, channels, inner = kind.geometry
    second_at = bias_at = 0
    if (
        not (given := grad_output.data_ptr())
        or (second is not None and not (second_at := second.data_ptr()))
        or (weight is not None and not weight_at)
        or (bias is not None and not (bias_at := bias.data_ptr()))
    ):
        return None
    grad_x = empty_like(x)
    grad_weight = grad_bias = None
    if weight is not None:  # without it no bias is asked for here
        grad_weight = torch.empty_like(weight) if need_weight else None
        grad_bias = torch.empty_like(weight) if need_bias else None
    grad_residual = grad_output if need_residual else None
    written = None
    if need_residual and act is not None:
        written = grad_residual = empty_like(x)
    first, step = rows.buffer_info()[0], 8 * channels
    from_batch = len(rows) == saved.BATCH_ROWS * channels
    call = _pack(
        outer, channels, inner,
        x.data_ptr(), second_at, given, 0, weight_at, bias_at,
        grad_x.data_ptr(), 0 if written is None else written.data_ptr(),
        first, 0, first + step, first + 3 * step if from_batch else 0, 0, 0,
        0 if grad_weight is None else grad_weight.data_ptr(), 0 if grad_bias is None else grad_bias.data_ptr(),
        0, 0, 0, 0.0, 0.0, 0.0 if act is None else act.parameter,
        *kind.types, 0 if act is None else act_code(act, of_output),
        BATCH_STATISTICS if from_batch else 0, thread_count(),
    )  # fmt: skip
    if require().functions.bn_backward(call):
        raise failed("bn_backward")
    return grad_x, grad_weight, grad_bias, grad_residual


def _seen(
    x: Any,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    counter: Tensor | None,
    channel_dim: int,
) -> tuple[tuple[int, ...], tuple[int, int, int], tuple[int, int, int]] | None:
    """The beginning of a bn_call, its buffers and its types; None for a call that is not taken."""
    if not is_eager() or CHOICE.backend == "reference" or type(load()) is str or type(mean) is not Tensor:
        return None
    mean_at = mean.data_ptr()
    tensors: tuple[Any, ...] = (x, weight, bias, mean, var)
    key = _ADDRESS * mean_at
    if residual is not None:
        tensors, key = (*tensors, residual), key + _SECOND
    if counter is not None:
        tensors, key = (*tensors, counter), key + _COUNTER
    kind = _forwards.find(key, tensors)  # never where one of them is None, or another of them
    if kind is None or kind.channel_dim != channel_dim:
        kind = _kind_of_forward(x, weight, bias, residual, mean, var, counter, channel_dim)
        if kind is None:
            return None
        if weight is not None and bias is not None and residual is not x:
            _forwards.keep(key, tensors, kind)
    # Address 0, which means none to a kernel, is that of no values, and of a storage that was resized to nothing.
    second_at = weight_at = bias_at = counter_at = 0
    if (
        not (x_at := x.data_ptr())
        or not mean_at
        or var is None
        or not (var_at := var.data_ptr())
        or (weight is not None and not (weight_at := weight.data_ptr()))
        or (bias is not None and not (bias_at := bias.data_ptr()))
        or (residual is not None and not (second_at := residual.data_ptr()))
        or (counter is not None and not (counter_at := counter.data_ptr()))
    ):
        return None
    inputs = (*kind.geometry, x_at, second_at, 0, 0, weight_at, bias_at)
    return inputs, (mean_at, var_at, counter_at), kind.types


def _kind_of_forward(
    x: Any,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    counter: Tensor | None,
    channel_dim: int,
) -> _Kind | None:
    if (form := _form(x)) is None:
        return None
    dtype, shape = x.dtype, x.shape
    types = _PARAMETER_TYPES.get(dtype)
    rank = len(shape)
    if types is None or x.is_neg() or x.numel() == 0 or rank < 2 or not -rank <= channel_dim < rank:
        return None
    seen = geometry(x, channel_dim)
    row = (seen[1],)
    parameter_dtype = _FLOAT32
    if weight is not None:
        if not _is_row(weight, row, types):
            return None
        parameter_dtype = weight.dtype
        types = (parameter_dtype,)
    if bias is not None:
        if not _is_row(bias, row, types):
            return None
        parameter_dtype = bias.dtype
    if residual is not None and not _is_like(residual, dtype, shape, form):
        return None
    if (
        type(mean) is not Tensor
        or type(var) is not Tensor
        or mean.dtype is not var.dtype
        or not _is_row(mean, row, _RUNNING_TYPES)
        or not _is_row(var, row, _RUNNING_TYPES)
    ):
        return None
    if counter is not None and (
        type(counter) is not Tensor
        or counter.dtype is not _INT64
        or not counter.is_cpu
        or counter.numel() != 1
    ):
        return None
    return _Kind(channel_dim, seen, (TYPES[dtype], TYPES[parameter_dtype], TYPES[mean.dtype]))


def _kind_of_backward(
    grad_output: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    second: Tensor | None,
    parameter_dtype: torch.dtype | None,
    channel_dim: int,
) -> _Kind | None:
    dtype, shape = grad_output.dtype, grad_output.shape
    if (
        (form := _form(x)) is None
        or not _is_like(x, dtype, shape, form)
        or not _is_like(grad_output, dtype, shape, form)
        or not (second is None or _is_like(second, dtype, shape, form))
    ):
        return None
    seen = geometry(x, channel_dim)
    row, types = (seen[1],), (parameter_dtype,)
    if not (weight is None or _is_row(weight, row, types)) or not (bias is None or _is_row(bias, row, types)):
        return None
    return _Kind(channel_dim, seen, (TYPES[dtype], TYPES[parameter_dtype or _FLOAT32], 0))


def _form(x: Any) -> torch.memory_format | None:
    """The memory format of a plain dense tensor on the CPU, None for all else."""
    kind = type(x)
    if (kind is not Tensor and kind is not Parameter) or not x.is_cpu or x.layout is not _STRIDED:
        return None
    if x.is_contiguous():
        return _CONTIGUOUS
    form = CHANNELS_LAST.get(x.dim())
    return form if form is not None and x.is_contiguous(memory_format=form) else None


def _is_like(tensor: Any, dtype: torch.dtype, shape: torch.Size, form: torch.memory_format) -> bool:
    kind = type(tensor)
    return (
        (kind is Tensor or kind is Parameter)
        and tensor.dtype is dtype
        and tensor.shape == shape
        and tensor.is_cpu
        and tensor.layout is _STRIDED
        and tensor.is_contiguous(memory_format=form)
        and not tensor.is_neg()
    )


def _is_row(tensor: Any, row: tuple[int], types: Sequence[torch.dtype | None]) -> bool:
    kind = type(tensor)
    return (
        (kind is Parameter or kind is Tensor)
        and tensor.dtype in types
        and tensor.shape == row
        and tensor.is_cpu
        and tensor.layout is _STRIDED
        and tensor.is_contiguous()
        and not tensor.is_neg()
    )
