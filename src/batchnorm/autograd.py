"""Forward and backward of batch norm out of the four operators."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from batchnorm import ops
from batchnorm.activations import Activation
from batchnorm.moments import Moments
from batchnorm.ops import Affine, wide_dtype

__all__ = ["in_function_transform", "normalize_with_batch", "normalize_with_given"]

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def normalize_with_batch(x: Tensor, affine: Affine, eps: float, channel_dim: int) -> tuple[Tensor, Moments]:
    """Normalize with the statistics of `x` itself, through which gradients flow.

    Args:
        x: floating input, any layout.
        affine: what follows the standardization; its mask broadcasts against x.
        eps: added to the biased variance.
        channel_dim: non-negative index of the channel dimension.

    Returns:
        The output in x's dtype, and the batch's moments, which carry no gradient.
    """
    if not _is_plain(x, affine):
        batch = ops.moments(x, affine.mask, channel_dim)
        output = ops.normalize(x, batch.mean, _invstd(batch.var, x, eps), affine, channel_dim)
        return output, Moments(_detach(batch.count), batch.mean.detach(), batch.var.detach())
    with torch.no_grad():
        batch = ops.moments(x, affine.mask, channel_dim)
        invstd = _invstd(batch.var, x, eps)
    output = _Normalize.apply(x, *affine, batch.mean, invstd, batch.count, eps, channel_dim)
    return output, batch


def normalize_with_given(
    x: Tensor, mean: Tensor, var: Tensor, affine: Affine, eps: float, channel_dim: int
) -> Tensor:
    """Normalize with given statistics (C,), which are constants to the gradient.

    Args:
        x: floating input, any layout.
        mean: (C,), taken as exact in its own dtype.
        var: (C,).
        affine: what follows the standardization; its mask broadcasts against x.
        eps: added to var.
        channel_dim: non-negative index of the channel dimension.

    Returns:
        The output in x's dtype.
    """
    mean, invstd = mean.detach(), _invstd(var.detach(), x, eps)
    if not _is_plain(x, affine):
        return ops.normalize(x, mean, invstd, affine, channel_dim)
    output: Tensor = _Normalize.apply(x, *affine, mean, invstd, None, eps, channel_dim)
    return output


class _Normalize(torch.autograd.Function):
    """Saves x, the (C,)-sized numbers, and the residual only where the activation's backward needs it."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        act: Activation | None,
        mask: Tensor | None,
        mean: Tensor,
        invstd: Tensor,
        count: int | Tensor | None,
        eps: float,
        channel_dim: int,
    ) -> Tensor:
        kept_residual = None if act is None else residual
        kept_count = count if isinstance(count, Tensor) else None
        ctx.save_for_backward(x, weight, bias, kept_residual, mask, mean, invstd, kept_count)
        ctx.from_batch = count is not None
        ctx.count = None if isinstance(count, Tensor) else count
        ctx.act, ctx.eps, ctx.channel_dim = act, eps, channel_dim
        ctx.residual_dtype = None if residual is None else residual.dtype
        return ops.normalize(x, mean, invstd, Affine(weight, bias, residual, act, mask), channel_dim)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return *_differentiable_backward(ctx, grad_output), *(None,) * 7
        x, weight, bias, residual, mask, mean, invstd, count = ctx.saved_tensors
        affine = Affine(weight, bias, residual, ctx.act, mask)
        need_x, need_weight, need_bias, need_residual, *_ = ctx.needs_input_grad
        count = ctx.count if count is None else count
        grads: list[Tensor | None] = [None] * 4
        means = None
        if need_weight or need_bias or (need_x and ctx.from_batch):
            sum_dy, sum_dy_xmu = ops.grad_moments(grad_output, x, mean, invstd, affine, ctx.channel_dim)
            grads[1] = (sum_dy_xmu * invstd).to(weight.dtype) if need_weight else None
            grads[2] = sum_dy.to(bias.dtype) if need_bias else None
            if ctx.from_batch:
                divisor = count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)
                means = (sum_dy / divisor, sum_dy_xmu / divisor)
        if need_x or need_residual:
            grad_x, grad_z = ops.grad_input(grad_output, x, mean, invstd, affine, ctx.channel_dim, means)
            grads[0] = grad_x if need_x else None
            grads[3] = grad_z.to(ctx.residual_dtype) if need_residual else None
        return *grads, *(None,) * 7


def _differentiable_backward(ctx: Any, grad_output: Tensor) -> list[Tensor | None]:
    """The gradients of x, weight, bias and residual as functions that autograd can differentiate again."""
    x, weight, bias, residual, mask, mean, invstd, _ = ctx.saved_tensors
    # Views, so that a tensor passed twice (x + BN(x)) gets each of its gradients apart.
    view = x.view_as(x)
    given = [
        view,
        *(None if tensor is None else tensor.view_as(tensor) for tensor in (weight, bias, residual)),
    ]
    affine = Affine(given[1], given[2], given[3], ctx.act, mask)
    if ctx.from_batch:
        batch = ops.moments(view, mask, ctx.channel_dim)
        mean, invstd = batch.mean, _invstd(batch.var, x, ctx.eps)
    output = ops.normalize(view, mean, invstd, affine, ctx.channel_dim)
    wanted = {
        index: tensor
        for index, tensor in enumerate(given)
        if tensor is not None and ctx.needs_input_grad[index]
    }
    found = torch.autograd.grad(
        output, list(wanted.values()), grad_output, create_graph=True, allow_unused=True
    )
    grads: list[Tensor | None] = [None] * 4
    for index, grad in zip(wanted, found, strict=True):
        grads[index] = grad
    if ctx.needs_input_grad[3] and residual is None:
        kept = grad_output if mask is None else torch.where(mask, grad_output, 0.0)
        grads[3] = kept.to(ctx.residual_dtype)
    return grads


def _invstd(var: Tensor, x: Tensor, eps: float) -> Tensor:
    return 1 / torch.sqrt(var.to(wide_dtype(x)) + eps)


def _detach(count: int | Tensor) -> int | Tensor:
    return count.detach() if isinstance(count, Tensor) else count


def in_function_transform() -> bool:
    """Whether a torch.func transform (vmap, grad, jvp, ...) is running."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _is_plain(x: Tensor, affine: Affine) -> bool:
    """Whether these are dense tensors in eager mode, for which an autograd.Function is right.

    Everything else (tracers, transforms, forward AD, subclasses, dispatch modes) sees the operators themselves,
    in plain torch, which each of them understands.
    """
    if torch.compiler.is_compiling():
        return False
    tensors = (x, affine.weight, affine.bias, affine.residual)
    return (
        all(tensor is None or type(tensor) in _PLAIN_TYPES for tensor in tensors)
        and not in_function_transform()
        and forward_ad._current_level < 0
        and _get_current_dispatch_mode() is None
        and not torch._C._get_tracing_state()
    )
