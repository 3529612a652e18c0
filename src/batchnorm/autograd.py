"""Forward and backward of batch norm out of the four operators."""

from typing import Any

import torch
from torch import Tensor

from batchnorm import ops
from batchnorm.activations import Activation
from batchnorm.moments import Moments
from batchnorm.ops import Affine, in_function_transform, is_plain, wide_dtype

__all__ = ["normalize_with_batch", "normalize_with_given"]


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
    if not is_plain(x, affine.weight, affine.bias, affine.residual):
        batch = ops.moments(x, affine.mask, channel_dim)
        output = ops.normalize(x, batch.mean, _invstd(batch.var, x, eps), affine, channel_dim)
        return _in_layout_of(x, output), Moments(
            _detach(batch.count), batch.mean.detach(), batch.var.detach()
        )
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
    # A copy: training may move the running mean between this forward and its backward.
    mean, invstd = mean.detach().clone(), _invstd(var.detach(), x, eps)
    if not is_plain(x, affine.weight, affine.bias, affine.residual):
        return _in_layout_of(x, ops.normalize(x, mean, invstd, affine, channel_dim))
    output: Tensor = _Normalize.apply(x, *affine, mean, invstd, None, eps, channel_dim)
    return output


class _Normalize(torch.autograd.Function):
    """Saves x and the (C,)-sized numbers; bias and residual only where the activation's backward needs them."""

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
        kept_bias, kept_residual = (None, None) if act is None else (bias, residual)
        kept_count = count if isinstance(count, Tensor) else None
        ctx.save_for_backward(x, weight, kept_bias, kept_residual, mask, mean, invstd, kept_count)
        ctx.from_batch = count is not None
        ctx.count = None if isinstance(count, Tensor) else count
        ctx.act, ctx.eps, ctx.channel_dim = act, eps, channel_dim
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.residual_dtype = None if residual is None else residual.dtype
        output = ops.normalize(x, mean, invstd, Affine(weight, bias, residual, act, mask), channel_dim)
        return _in_layout_of(x, output)

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
            grads[2] = sum_dy.to(ctx.bias_dtype) if need_bias else None
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
    grads: list[Tensor | None] = [None] * 4
    wanted = {
        index: tensor
        for index, tensor in enumerate(given)
        if tensor is not None and ctx.needs_input_grad[index]
    }
    if wanted:
        output = ops.normalize(view, mean, invstd, affine, ctx.channel_dim)
        found = torch.autograd.grad(
            output, list(wanted.values()), grad_output, create_graph=True, allow_unused=True
        )
        for index, grad in zip(wanted, found, strict=True):
            grads[index] = grad
    if ctx.act is None:  # bias and residual were not saved: the output is their sum with the rest
        dy = grad_output if mask is None else torch.where(mask, grad_output, 0.0)
        if ctx.needs_input_grad[2]:
            others = [dim for dim in range(dy.dim()) if dim != ctx.channel_dim]
            grads[2] = dy.to(wide_dtype(dy)).sum(others).to(ctx.bias_dtype)
        if ctx.needs_input_grad[3]:
            grads[3] = dy.to(ctx.residual_dtype)
    return grads


def _in_layout_of(x: Tensor, output: Tensor) -> Tensor:
    """Give the output the memory format that torch gives it: channels_last like x, else contiguous."""
    if in_function_transform():  # memory formats cannot be asked for there
        return output
    for dims, form in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if x.dim() == dims and x.is_contiguous(memory_format=form):
            return output.contiguous(memory_format=form)
    return output.contiguous()


def _invstd(var: Tensor, x: Tensor, eps: float) -> Tensor:
    return 1 / torch.sqrt(var.to(wide_dtype(x)) + eps)


def _detach(count: int | Tensor) -> int | Tensor:
    return count.detach() if isinstance(count, Tensor) else count
