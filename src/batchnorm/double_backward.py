"""The backward of batch norm once more, as functions that autograd can differentiate again."""

from typing import Any

import torch
from torch import Tensor

from batchnorm.ops import Affine, invstd_of, reference, saved, wide_dtype

__all__ = ["differentiable_backward"]


def differentiable_backward(ctx: Any, grad_output: Tensor) -> list[Tensor | None]:
    """The gradients of x, weight, bias and residual as functions that autograd can differentiate again."""
    x, weight, bias, second, mask = ctx.saved_tensors
    call, act, residual = ctx.call, ctx.call.act, second
    rows = call.rows_of(x)
    if call.keeps_output:
        grad_output, act, residual = torch.where(second <= 0, 0.0, grad_output), None, None
    # Views, so that a tensor passed twice (x + BN(x)) gets each of its gradients apart.
    view = x.view_as(x)
    given = [
        view,
        *(None if tensor is None else tensor.view_as(tensor) for tensor in (weight, bias, residual)),
    ]
    seen = view.to(reference.compute_dtype(x))  # once, as in autograd's own path
    affine = Affine(given[1], given[2], given[3], act, mask)
    mean, invstd = rows[0], rows[1]
    if saved.is_from_batch(rows):
        batch = call.moments(seen, mask)
        mean, invstd = batch.mean, invstd_of(batch.var, x, call.eps)
    grads: list[Tensor | None] = [None] * 4
    wanted = {
        index: tensor
        for index, tensor in enumerate(given)
        if tensor is not None and ctx.needs_input_grad[index]
    }
    if wanted:
        output = reference.normalize(seen, mean, invstd, affine, call.channel_dim).to(x.dtype)
        found = torch.autograd.grad(
            output, list(wanted.values()), grad_output, create_graph=True, allow_unused=True
        )
        for index, grad in zip(wanted, found, strict=True):
            grads[index] = grad
    if act is None:  # bias and residual were not saved: the output is their sum with the rest
        dy = grad_output if mask is None else torch.where(mask, grad_output, 0.0)
        if ctx.needs_input_grad[2]:
            others = [dim for dim in range(dy.dim()) if dim != call.channel_dim]
            grads[2] = dy.to(wide_dtype(dy)).sum(others).to(call.parameter_dtype)
        if ctx.needs_input_grad[3]:
            grads[3] = dy
    return grads
