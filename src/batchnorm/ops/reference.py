"""The specification in plain torch: any device, any floating dtype; the operators differentiable any number of times.

Three dtypes meet here. *Storage* is that of the tensors given. *Compute* holds one element's arithmetic: float32, or
float64 for float64 inputs. *Wide* holds the (C,)-sized numbers and every sum: float64 where the device has it.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from batchnorm.activations import Activation
from batchnorm.errors import TransformError
from batchnorm.moments import Moments, RunningStats
from batchnorm.ops import saved
from batchnorm.ops.eager import is_plain
from batchnorm.ops.layout import like_input

__all__ = [
    "Affine",
    "Gradients",
    "backward",
    "compute_dtype",
    "evaluate",
    "forward",
    "grad_input",
    "grad_moments",
    "invstd_of",
    "moments",
    "moves",
    "normalize",
    "wide_dtype",
]

_BLOCK = 2**18  # values; their float64 copies, 2 MiB each, stay in the cache


class Affine(NamedTuple):
    """What follows the standardization: act(xhat * weight + bias + residual), 0 where `mask` is False.

    `weight` and `bias` are (C,); `residual` has the shape of x; `mask` is bool and broadcasts against x. A mask that
    differs between channels only the reference takes.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None
    residual: Tensor | None = None
    act: Activation | None = None
    mask: Tensor | None = None


Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]  # of x, weight, bias, residual


def wide_dtype(x: Tensor) -> torch.dtype:
    """The dtype of per-channel numbers and of sums."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which one element is normalized."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _per_channel(values: Tensor, x: Tensor, channel_dim: int) -> Tensor:
    shape = [1] * x.dim()
    shape[channel_dim] = -1
    return values.reshape(shape)


def _reduced_dims(x: Tensor, channel_dim: int) -> list[int]:
    return [dim for dim in range(x.dim()) if dim != channel_dim]


def _keep(x: Tensor, mask: Tensor | None) -> Tensor:
    # where, not multiplication: NaN at an invalid position must not spread.
    return x if mask is None else torch.where(mask, x, 0.0)


def _sum(x: Tensor, channel_dim: int) -> Tensor:
    dims = _reduced_dims(x, channel_dim)
    return x.sum(dims) if dims else x


def _blocks(*tensors: Tensor | None, channel_dim: int) -> Iterator[tuple[Any, ...]]:
    """Cut tensors that broadcast against the first into slices whose wide copies stay in the cache."""
    x = tensors[0]
    assert x is not None
    if not is_plain(x) or x.numel() <= _BLOCK:
        yield tensors
        return
    dim = max(_reduced_dims(x, channel_dim), key=x.size)
    size = max(1, _BLOCK * x.size(dim) // x.numel())
    for start in range(0, x.size(dim), size):
        length = min(size, x.size(dim) - start)
        yield tuple(
            tensor if tensor is None or tensor.size(dim) != x.size(dim) else tensor.narrow(dim, start, length)
            for tensor in tensors
        )


def moments(x: Tensor, mask: Tensor | None, channel_dim: int) -> Moments:
    """Count, mean and biased variance of each channel, over the positions where `mask` is True.

    mean = rough + sum(x - rough) / count;  var = sum((x - mean)^2) / count

    The raw sum only gives a rough mean; what is summed for the result has that mean subtracted.

    Raises:
        TransformError: (RuntimeError) torch.jit.trace is at work, to which the count is a tensor.
    """
    if torch._C._get_tracing_state() is not None:
        raise TransformError(
            "torch.jit.trace cannot record a batch norm that uses its batch's statistics; trace the model in eval(), "
            "with running statistics, or use torch.export.export or torch.compile"
        )
    wide = wide_dtype(x)
    count: int | Tensor
    divisor: int | Tensor
    if mask is None:
        count = x.numel() // torch.sym_max(x.size(channel_dim), 1)
        divisor = torch.sym_max(count, 1)
    else:
        count = _valid_count(x, mask, channel_dim)
        divisor = count.clamp(min=1)

    def mean_of(term: Callable[[Tensor], Tensor]) -> Tensor:
        total = [
            _sum(_keep(term(_keep(part.to(wide), valid)), valid), channel_dim)
            for part, valid in _blocks(x, mask, channel_dim=channel_dim)
        ]
        return functools.reduce(torch.add, total) / divisor

    rough = mean_of(lambda part: part).detach()
    correction = mean_of(lambda part: part - _per_channel(rough, x, channel_dim))
    mean = rough + correction
    var = mean_of(lambda part: (part - _per_channel(mean, x, channel_dim)).square())
    return Moments(count, mean, var)


def _valid_count(x: Tensor, mask: Tensor, channel_dim: int) -> Tensor:
    """How many positions are valid: one number for a mask that all channels share, else one a channel."""
    sizes = [mask.size(dim) if dim == channel_dim else x.size(dim) for dim in range(x.dim())]
    valid, dtype = mask.expand(sizes), wide_dtype(x)
    if mask.size(channel_dim) == 1:
        return valid.sum(dtype=dtype)
    return valid.sum(_reduced_dims(x, channel_dim), dtype=dtype)


def _centre(x: Tensor, mean: Tensor, mask: Tensor | None, channel_dim: int) -> Tensor:
    """Return x - mean in compute dtype, the mean carried as a high and a low part where it is wider than that."""
    dtype = compute_dtype(x)
    x = _keep(x.to(dtype), mask)
    if mean.dtype.itemsize <= dtype.itemsize:
        return x - _per_channel(mean.to(dtype), x, channel_dim)
    high = mean.detach().to(dtype)
    low = (mean - high.to(mean.dtype)).to(dtype)
    return (x - _per_channel(high, x, channel_dim)) - _per_channel(low, x, channel_dim)


def _scale(invstd: Tensor, weight: Tensor | None) -> Tensor:
    return invstd if weight is None else invstd * weight.to(invstd.dtype)


def _pre_activation(xmu: Tensor, invstd: Tensor, affine: Affine, channel_dim: int) -> Tensor:
    scale = _per_channel(_scale(invstd, affine.weight).to(xmu.dtype), xmu, channel_dim)
    if affine.bias is None:
        z = xmu * scale
    else:
        z = torch.addcmul(_per_channel(affine.bias.to(xmu.dtype), xmu, channel_dim), xmu, scale)
    if affine.residual is not None:
        z = z + _keep(affine.residual.to(xmu.dtype), affine.mask)
    return z


def normalize(x: Tensor, mean: Tensor, invstd: Tensor, affine: Affine, channel_dim: int) -> Tensor:
    """Return act((x - mean) * invstd * weight + bias + residual), in the dtype of x."""
    xmu = _centre(x, mean, affine.mask, channel_dim)
    z = _pre_activation(xmu, invstd, affine, channel_dim)
    y = z if affine.act is None else affine.act.forward(z)
    return _keep(y, affine.mask).to(x.dtype)


def _grad_pre_activation(
    grad_output: Tensor, xmu: Tensor, invstd: Tensor, affine: Affine, channel_dim: int
) -> Tensor:
    grad = _keep(grad_output.to(xmu.dtype), affine.mask)
    if affine.act is None:
        return grad
    return affine.act.backward(grad, _pre_activation(xmu, invstd, affine, channel_dim))


def grad_moments(
    grad_output: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, affine: Affine, channel_dim: int
) -> tuple[Tensor, Tensor]:
    """Return sum_dy and sum_dy_xmu of each channel, (C,) in wide dtype; dy is the gradient before the activation."""
    xmu = _centre(x, mean, affine.mask, channel_dim)
    dy = _grad_pre_activation(grad_output, xmu, invstd, affine, channel_dim)
    wide = wide_dtype(x)
    sums = [
        (_sum(dy_part.to(wide), channel_dim), _sum(dy_part.to(wide) * xmu_part, channel_dim))
        for dy_part, xmu_part in _blocks(dy, xmu, channel_dim=channel_dim)
    ]
    sum_dy, sum_dy_xmu = (functools.reduce(torch.add, parts) for parts in zip(*sums, strict=True))
    return sum_dy, sum_dy_xmu


def grad_input(
    grad_output: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    affine: Affine,
    channel_dim: int,
    means: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Gradients for x and for the residual.

    dx = invstd * weight * (dy - mean_dy - (x - mean) * invstd^2 * mean_dy_xmu)

    `means` are sum_dy / count and sum_dy_xmu / count; None where the statistics are constants (evaluation), and
    then dx = invstd * weight * dy.
    """
    xmu = _centre(x, mean, affine.mask, channel_dim)
    dy = _grad_pre_activation(grad_output, xmu, invstd, affine, channel_dim)
    dx = dy
    if means is not None:
        mean_dy, mean_dy_xmu = means
        slope = (mean_dy_xmu * invstd * invstd).to(xmu.dtype)
        dx = dx - _per_channel(mean_dy.to(xmu.dtype), x, channel_dim)
        dx = torch.addcmul(dx, xmu, _per_channel(slope, x, channel_dim), value=-1)
    dx = dx * _per_channel(_scale(invstd, affine.weight).to(xmu.dtype), x, channel_dim)
    return _keep(dx, affine.mask).to(x.dtype), dy


def invstd_of(var: Tensor, x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(var + eps), in wide dtype."""
    return 1 / torch.sqrt(var.to(wide_dtype(x)) + eps)


def moves(_: RunningStats) -> bool:
    """Whether `forward` itself moves these buffers: never."""
    return False


def forward(
    x: Tensor,
    affine: Affine,
    eps: float,
    channel_dim: int,
    _running: RunningStats | None = None,
    _momentum: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Normalize with the batch's own statistics; return the output in x's memory format, and what `saved` describes."""
    batch = moments(x, affine.mask, channel_dim)
    invstd = invstd_of(batch.var, x, eps)
    output = normalize(x, batch.mean, invstd, affine, channel_dim)
    return like_input(x, output), saved.join(batch, invstd)


def evaluate(
    x: Tensor, mean: Tensor, var: Tensor, affine: Affine, eps: float, channel_dim: int
) -> tuple[Tensor, Tensor]:
    """Normalize with given statistics; return the output in x's memory format, and what `saved` describes."""
    # A copy: training may move the running mean between this forward and its backward.
    rows = torch.stack([mean.detach().to(wide_dtype(x)), invstd_of(var.detach(), x, eps)])
    return like_input(x, normalize(x, rows[0], rows[1], affine, channel_dim)), rows


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
    """The gradients that are needed, that of the residual in compute dtype.

    `needs` begins with whether those of x, weight, bias and residual are. `parameter_dtype` is that of weight and
    bias. `output` is the forward's, where it was kept in place of the residual: of a relu it says all that its
    backward asks.
    """
    if output is not None:
        grad_output = torch.where(output <= 0, 0.0, grad_output)
        affine = affine._replace(act=None)
    mean, invstd = rows[0], rows[1]
    need_x, need_weight, need_bias, need_residual = needs[:4]
    grads: list[Tensor | None] = [None] * 4
    means = None
    if need_weight or need_bias or (need_x and saved.is_from_batch(rows)):
        sum_dy, sum_dy_xmu = grad_moments(grad_output, x, mean, invstd, affine, channel_dim)
        grads[1] = (sum_dy_xmu * invstd).to(parameter_dtype) if need_weight else None
        grads[2] = sum_dy.to(parameter_dtype) if need_bias else None
        if saved.is_from_batch(rows):
            shared = affine.mask is None or affine.mask.size(channel_dim) == 1
            count = (rows[3, 0] if shared else rows[3]).clamp(min=1)
            means = (sum_dy / count, sum_dy_xmu / count)
    if need_x or need_residual:
        grad_x, grad_z = grad_input(grad_output, x, mean, invstd, affine, channel_dim, means)
        grads[0] = grad_x if need_x else None
        grads[3] = grad_z if need_residual else None
    return grads[0], grads[1], grads[2], grads[3]
