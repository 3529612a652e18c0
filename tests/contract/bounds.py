"""How far a result may be from float64: the numerics contract as numbers."""

import torch
from torch import Tensor

from tests.contract.oracle import Result

_OUTPUT = {torch.float32: 1e-6, torch.float64: 1e-12}
_GRADIENT = {torch.float32: 2e-6, torch.float64: 1e-12}
_STEEPEST = 1.2  # the largest slope of an activation is gelu's 1.13


def one_ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    rounded = values.to(dtype).double()
    info = torch.finfo(dtype)
    step = info.eps * torch.exp2(torch.floor(torch.log2(rounded.abs().clamp(min=1e-300))))
    return step.clamp(min=info.smallest_normal * info.eps)


def output_error(actual: Tensor, expected: Result) -> Tensor:
    """The error in units of what is allowed.

    That is 1e-6 of max(1, |weight * xhat| + |bias| + |residual|), or in half precision an ulp where that is more: it
    is less where they cancel.
    """
    dtype = actual.dtype
    bound = _OUTPUT.get(dtype, 1e-6) * expected.magnitude.clamp(min=1)
    if dtype in _OUTPUT:
        return _ratio(actual.double() - expected.output, bound)
    rounded = expected.output.to(dtype).double()
    same = actual.double() == rounded  # infinity included
    bound = torch.maximum(bound, one_ulp(expected.output, dtype))
    return torch.where(same, 0.0, _ratio(actual.double() - rounded, bound))


def assert_output(actual: Tensor, expected: Result) -> None:
    error = output_error(actual, expected)
    assert bool((error <= 1).all()), f"{error.max():.3g} times the bound"


def gradient_error(
    actual: Tensor,
    expected: Tensor,
    name: str,
    *,
    x: Tensor,
    grad_output: Tensor,
    weight: Tensor | None = None,
    act: str | None = None,
    mask: Tensor | None = None,
    stats: tuple[Tensor, Tensor],
    training: bool,
    eps: float = 1e-5,
    channel_dim: int = 1,
) -> Tensor:
    """The error in units of what is allowed: 2e-6 of the largest absolute term in the formula, plus rounding.

    `name` says whose gradient it is; `stats` are mean and biased variance that normalized x.
    """
    dim = channel_dim % x.dim()
    x = x.detach().double().movedim(dim, 1)
    grad = grad_output.double().movedim(dim, 1)
    keep = torch.ones(()) if mask is None else mask.unsqueeze(1)
    dims = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    count = max(1.0, keep.sum().item() if mask is not None else x.numel() / max(1, x.size(1)))
    mean, var = (number.double().view(shape) for number in stats)
    grad = torch.where(keep.bool(), grad.abs(), 0.0) * (_STEEPEST if act else 1.0)
    xhat = torch.where(keep.bool(), ((x - mean) / (var + eps).sqrt()).abs(), 0.0)
    if name == "x":
        terms = grad
        if training:
            terms = torch.maximum(grad, grad.sum(dims, keepdim=True) / count)
            terms = torch.maximum(terms, xhat * (grad * xhat).sum(dims, keepdim=True) / count)
        scale = (var + eps).rsqrt()
        largest = terms * (scale if weight is None else scale * weight.detach().double().abs().view(shape))
    elif name == "residual":
        largest = grad
    else:
        largest = (grad * xhat if name == "weight" else grad).sum(dims)
    if name in ("x", "residual"):
        largest = largest.expand(x.shape).movedim(1, dim)
    info = torch.finfo(actual.dtype)
    rounding = _GRADIENT.get(actual.dtype, 1.5 * info.eps)
    bound = rounding * largest + info.tiny
    signed = (actual.sign() == expected.sign()) | (expected.abs() <= bound)
    same = (
        actual.isinf() & signed & (expected.abs() + bound >= info.max)
    )  # what is within the bound may overflow
    return torch.where(same, 0.0, _ratio(actual.double() - expected, bound))


def _ratio(error: Tensor, bound: Tensor) -> Tensor:
    return (error.abs() / bound).nan_to_num(nan=float("inf"))
