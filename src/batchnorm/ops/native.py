"""The operators in C++: a ctypes binding of native/batchnorm.h for dense CPU tensors in eager mode."""

import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from batchnorm.activations import Activation
from batchnorm.errors import BackendError
from batchnorm.moments import UNTRACKED, Moments, RunningStats
from batchnorm.ops import memory, reference, saved
from batchnorm.ops.layout import Dense, dense
from batchnorm.ops.openmp import thread_count
from batchnorm.ops.reference import Affine, Gradients
from batchnorm.ops.shared_library import TYPES, require

__all__ = [
    "BATCH_STATISTICS",
    "CALL",
    "act_code",
    "backward",
    "evaluate",
    "failed",
    "forward",
    "grad_input",
    "grad_moments",
    "moments",
    "moves",
    "normalize",
    "run",
    "serves",
]

CALL = struct.Struct("@3q19P3d6i")  # bn_call
_pack = CALL.pack
_ACTS = ("relu", "relu6", "leaky_relu", "silu", "gelu", "gelu_tanh", "hardswish", "elu")
_ACT_CODES = {name: code for code, name in enumerate(_ACTS, start=1)}
_RELU_OF_OUTPUT = 9
BATCH_STATISTICS, _CUMULATIVE = 1, 2


def serves(x: Tensor, affine: Affine) -> bool:
    """Whether the kernels take this call of dense tensors in eager mode; every other call is the reference's.

    | what | served |
    |---|---|
    | device | all on the CPU |
    | input | float32, float64, bfloat16, float16; not empty |
    | residual | of the input's dtype |
    | weight, bias, mask | whatever `arguments.validate` lets through |
    """
    weight, bias, residual, _, mask = affine
    return (
        x.is_cpu
        and x.layout is torch.strided
        and x.dtype in TYPES
        and x.numel() > 0
        and (weight is None or weight.is_cpu)
        and (bias is None or bias.is_cpu)
        and (residual is None or (residual.is_cpu and residual.dtype is x.dtype))
        and (mask is None or mask.is_cpu)
    )


def moves(running: RunningStats) -> bool:
    """Whether `forward` itself moves these buffers: float32 or float64 on the CPU, with a counter in int64 or none."""
    mean, var, counter = running
    if mean is None or var is None:
        return False
    dtype = mean.dtype
    if not (dtype is torch.float32 or dtype is torch.float64) or var.dtype is not dtype:
        return False
    if counter is not None and counter.dtype is not torch.int64:
        return False
    for buffer in running:
        if buffer is None:
            continue
        if type(buffer) is not Tensor or not buffer.is_cpu or not buffer.is_contiguous() or buffer.is_neg():
            return False
    return True


def moments(x: Tensor, mask: Tensor | None, channel_dim: int) -> Moments:
    """As `reference.moments`."""
    seen = dense(x, channel_dim)
    rows = _new_rows(seen, saved.BATCH_ROWS)
    _call("bn_moments", seen, rows, Affine(mask=mask))
    return saved.moments_of(rows, x, mask is not None)


def normalize(x: Tensor, mean: Tensor, invstd: Tensor, affine: Affine, channel_dim: int) -> Tensor:
    """As `reference.normalize`, in x's memory format."""
    seen = dense(x, channel_dim)
    output = _new_output(seen)
    _call("bn_normalize", seen, _wide(mean, invstd), affine, second=affine.residual, output=output)
    return output


def grad_moments(
    grad_output: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, affine: Affine, channel_dim: int
) -> tuple[Tensor, Tensor]:
    """As `reference.grad_moments`."""
    seen, rows = dense(x, channel_dim), _wide(mean, invstd)
    sums = torch.empty_like(rows)
    second = affine.residual
    _call("bn_grad_moments", seen, rows, affine, second=second, grad_output=grad_output, sums=sums)
    return sums[0], sums[1]


def grad_input(
    grad_output: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    affine: Affine,
    channel_dim: int,
    means: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """As `reference.grad_input`; the gradient of the residual comes in x's dtype."""
    seen, rows, sums = dense(x, channel_dim), _wide(mean, invstd), None
    if means is not None:  # the kernel divides sums by the count; these are divided already
        one = torch.ones_like(rows)
        rows, sums = torch.cat([rows, one]), _wide(*means)
    grad_x, grad_residual = _new_output(seen), _new_output(seen)
    _call(
        "bn_grad_input",
        seen,
        rows,
        affine,
        second=affine.residual,
        grad_output=grad_output,
        output=grad_x,
        grad_residual=grad_residual,
        sums=sums,
        flags=0 if means is None else BATCH_STATISTICS,
    )
    return grad_x, grad_residual


def forward(
    x: Tensor,
    affine: Affine,
    eps: float,
    channel_dim: int,
    running: RunningStats | None = None,
    momentum: float | None = None,
) -> tuple[Tensor, Tensor]:
    """As `reference.forward`; the buffers in `running`, which `moves` has accepted, move in the same call."""
    seen = dense(x, channel_dim)
    output, rows = _new_output(seen), _new_rows(seen, saved.BATCH_ROWS)
    second = affine.residual
    if running is None:
        _call("bn_forward", seen, rows, affine, second=second, output=output, eps=eps)
        return output, rows
    counter = running.num_batches_tracked
    _call(
        "bn_forward",
        seen,
        rows,
        affine,
        second=second,
        output=output,
        running=running,
        eps=eps,
        momentum=0.0 if momentum is None else momentum,
        flags=_CUMULATIVE if momentum is None and counter is not None else 0,
    )
    torch._C._increment_version([buffer for buffer in running if buffer is not None])
    return output, rows


def evaluate(
    x: Tensor, mean: Tensor, var: Tensor, affine: Affine, eps: float, channel_dim: int
) -> tuple[Tensor, Tensor]:
    """As `reference.evaluate`."""
    given = RunningStats(mean, var)
    if not moves(given):  # nor can the kernel read them
        return reference.evaluate(x, mean, var, affine, eps, channel_dim)
    seen = dense(x, channel_dim)
    output, rows = _new_output(seen), _new_rows(seen, saved.GIVEN_ROWS)
    _call("bn_evaluate", seen, rows, affine, second=affine.residual, output=output, running=given, eps=eps)
    return output, rows


def backward(
    grad_output: Tensor,
    x: Tensor,
    rows: Tensor,
    affine: Affine,
    channel_dim: int,
    needs: Sequence[bool],
    parameter_dtype: torch.dtype | None,
    output: Tensor | None = None,
) -> Gradients:
    """As `reference.backward`; the gradient of the residual comes in x's dtype."""
    need_x, need_weight, need_bias, need_residual = needs[:4]
    changed = need_residual and (affine.act is not None or affine.mask is not None)
    if not (need_x or need_weight or need_bias or changed):
        return None, None, None, grad_output if need_residual else None
    seen = dense(x, channel_dim)
    grad_x = _new_output(seen) if need_x else None
    grad_weight = x.new_empty(seen[3], dtype=parameter_dtype) if need_weight else None
    grad_bias = x.new_empty(seen[3], dtype=parameter_dtype) if need_bias else None
    grad_residual = _new_output(seen) if changed else None
    _call(
        "bn_backward",
        seen,
        rows,
        affine,
        second=affine.residual if output is None else output,
        of_output=output is not None,
        grad_output=grad_output,
        output=grad_x,
        grad_residual=grad_residual,
        grad_weight=grad_weight,
        grad_bias=grad_bias,
        parameter_dtype=parameter_dtype,
        flags=BATCH_STATISTICS if saved.is_from_batch(rows) else 0,
    )
    return grad_x, grad_weight, grad_bias, grad_output if need_residual and not changed else grad_residual


def _call(
    name: str,
    seen: Dense,
    rows: Tensor,
    affine: Affine,
    *,
    second: Tensor | None = None,
    of_output: bool = False,
    grad_output: Tensor | None = None,
    output: Tensor | None = None,
    grad_residual: Tensor | None = None,
    sums: Tensor | None = None,
    grad_weight: Tensor | None = None,
    grad_bias: Tensor | None = None,
    parameter_dtype: torch.dtype | None = None,
    running: RunningStats = UNTRACKED,
    eps: float = 0.0,
    momentum: float = 0.0,
    flags: int = 0,
) -> None:
    """Run a kernel on copies of what does not lie as x does; the names here keep them alive until it returns."""
    x, form, outer, channels, inner = seen
    weight, bias, _, act, mask = affine
    if weight is not None:
        weight = weight.contiguous()
    if bias is not None:
        bias = bias.contiguous()
    if second is not None:
        second = second.contiguous(memory_format=form)
    if grad_output is not None:
        grad_output = grad_output.contiguous(memory_format=form)
    if mask is not None:
        mask = mask.contiguous(memory_format=form)
    if parameter_dtype is None:
        given = weight if weight is not None else bias
        parameter_dtype = torch.float32 if given is None else given.dtype
    mean, row = rows.data_ptr(), 8 * channels
    sum_dy = _address(sums)
    running_mean, running_var, counter = running
    run(
        name,
        outer,
        channels,
        inner,
        _address(x),
        _address(second),
        _address(grad_output),
        _address(mask),
        _address(weight),
        _address(bias),
        _address(output),
        _address(grad_residual),
        mean,
        mean + 2 * row,  # of var and count, which only rows from a batch have
        mean + row,
        mean + 3 * row,
        sum_dy,
        sum_dy and sum_dy + row,
        _address(grad_weight),
        _address(grad_bias),
        _address(running_mean),
        _address(running_var),
        _address(counter),
        eps,
        momentum,
        0.0 if act is None else act.parameter,
        TYPES[x.dtype],
        TYPES[parameter_dtype],
        0 if running_mean is None else TYPES[running_mean.dtype],
        act_code(act, of_output),
        flags,
    )


def run(name: str, *fields: float) -> None:
    """Run a kernel on a bn_call with these fields, in their order there; the last one, the threads, comes from here.

    Raises:
        BackendError: the kernel could not do its work.
    """
    if getattr(require().functions, name)(_pack(*fields, thread_count())):
        raise failed(name)


def failed(name: str) -> BackendError:
    """What to raise where a kernel says that it has not done its work."""
    return BackendError(
        f"{name} of the native backend failed: out of memory for its scratch, or a wrong call"
    )


def act_code(act: Activation | None, of_output: bool = False) -> int:
    """What bn_call has for an activation; `of_output` is a relu of which backward reads the output."""
    return 0 if act is None else _RELU_OF_OUTPUT if of_output else _ACT_CODES[act.name]


def _address(tensor: Tensor | None) -> int:
    """Where it lies; 0, which is where a storage resized to nothing lies too, means none to a kernel."""
    if tensor is None:
        return 0
    address = tensor.data_ptr()
    if address == 0:
        raise BackendError(
            "batch_norm() got a tensor whose data is not allocated: its storage has been resized to nothing, as "
            "sharding and offloading do between uses; gather it first"
        )
    return address


def _new_rows(seen: Dense, rows: int) -> Tensor:
    return seen[0].new_empty((rows, seen[3]), dtype=torch.float64)


def _wide(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack([first, second]).to(torch.float64)


def _new_output(seen: Dense) -> Tensor:
    return memory.empty_like(seen[0])
