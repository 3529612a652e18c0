"""Forward and backward of batch norm: one autograd.Function around a backend, or the operators themselves."""

from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from batchnorm.activations import Activation
from batchnorm.double_backward import differentiable_backward
from batchnorm.moments import Moments, RunningStats
from batchnorm.ops import (
    Affine,
    Backend,
    direct,
    exported,
    invstd_of,
    is_batched,
    is_plain,
    library,
    native,
    reference,
    saved,
    select,
)
from batchnorm.ops.layout import like_input
from batchnorm.ops.reference import Gradients
from batchnorm.running import track

__all__ = [
    "Call",
    "normalize_and_track",
    "normalize_directly",
    "normalize_with_batch",
    "normalize_with_given",
    "run",
]


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
        return _traceable(x, affine, eps, channel_dim)
    call = Call(select(x, affine), affine.act, affine.mask, eps, channel_dim)
    output = run(x, affine, call)
    return output, call.moments_of(x, affine)


def normalize_and_track(
    x: Tensor,
    affine: Affine,
    eps: float,
    channel_dim: int,
    running: RunningStats,
    momentum: float | None,
) -> Tensor:
    """As `normalize_with_batch`, and move the running statistics that are not None.

    Args:
        x: floating input, any layout; affine, eps and channel_dim as there.
        running: the buffers.
        momentum: weight of the new batch; None for the cumulative average.

    Returns:
        The output in x's dtype.
    """
    if not is_plain(x, affine.weight, affine.bias, affine.residual):
        output, batch = _traceable(x, affine, eps, channel_dim)
        if any(buffer is not None for buffer in running):
            track(running, batch, momentum)
        return output
    call = Call(select(x, affine), affine.act, affine.mask, eps, channel_dim)
    if call.backend.moves(running):
        call.running, call.momentum = running, momentum
        return run(x, affine, call)
    output = run(x, affine, call)
    if any(buffer is not None for buffer in running):
        track(running, call.moments_of(x, affine), momentum)
    return output


def normalize_directly(
    x: Any,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    act: Activation | None,
    mean: Tensor | None,
    var: Tensor | None,
    counter: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
    channel_dim: int,
) -> Tensor | None:
    """What `functional.normalize_and_track` gives for these unchecked arguments, or None.

    None says that the call is not one of the common ones that `ops.direct` takes, and that nothing has happened.
    """
    if training:
        done = direct.forward(x, weight, bias, residual, act, mean, var, counter, momentum, eps, channel_dim)
    else:
        done = direct.evaluate(x, weight, bias, residual, act, mean, var, momentum, eps, channel_dim)
    if done is None:
        return None
    output, rows = done
    if not _is_differentiated(x, weight, bias, residual):
        return output
    call = Call(native, act, None, eps, channel_dim % x.dim())
    call.output, call.rows = output, rows
    result: Tensor = _apply_direct(x, weight, bias, residual, call)
    return result


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
    if not is_plain(x, affine.weight, affine.bias, affine.residual, mean, var):
        if library.serves(x, affine):
            return library.evaluate(x, mean, var, affine, eps, channel_dim)[0]
        if exported.serves(affine):
            return exported.evaluate(x, mean, var, affine, eps, channel_dim)
        mean, invstd = mean.detach(), invstd_of(var.detach(), x, eps)
        return like_input(x, reference.normalize(x, mean, invstd, affine, channel_dim))
    call = Call(select(x, affine), affine.act, affine.mask, eps, channel_dim)
    call.given = (mean, var)
    return run(x, affine, call)


def _traceable(x: Tensor, affine: Affine, eps: float, channel_dim: int) -> tuple[Tensor, Moments]:
    if library.serves(x, affine):
        output, rows = library.forward(x, affine, eps, channel_dim)
        return output, saved.moments_of(rows.detach(), x, affine.mask is not None)
    # Once: autograd would add up the gradients of two narrow copies in their own type, where they overflow.
    seen = x.to(reference.compute_dtype(x))
    batch = reference.moments(seen, affine.mask, channel_dim)
    output = reference.normalize(seen, batch.mean, invstd_of(batch.var, x, eps), affine, channel_dim).to(
        x.dtype
    )
    count = batch.count.detach() if isinstance(batch.count, Tensor) else batch.count
    return like_input(x, output), Moments(count, batch.mean.detach(), batch.var.detach())


class Call:
    """What a forward is told beside the tensors that gradients flow to, and what its backward needs of that."""

    __slots__ = (
        "act",
        "backend",
        "channel_dim",
        "eps",
        "given",
        "keeps_output",
        "mask",
        "momentum",
        "output",
        "parameter_dtype",
        "rows",
        "running",
    )

    rows: "Tensor | array[float]"  # see ops/saved.py
    output: Tensor  # of a forward that has run
    keeps_output: bool
    parameter_dtype: torch.dtype | None

    def __init__(
        self, backend: Backend, act: Activation | None, mask: Tensor | None, eps: float, channel_dim: int
    ) -> None:
        self.backend = backend
        self.act = act
        self.mask = mask
        self.eps = eps
        self.channel_dim = channel_dim
        self.given: tuple[Tensor, Tensor] | None = None
        self.running: RunningStats | None = None
        self.momentum: float | None = None

    def rows_of(self, x: Tensor) -> Tensor:
        """The rows of a run with x, as a tensor."""
        return saved.as_tensor(self.rows, x.size(self.channel_dim))

    def moments_of(self, x: Tensor, affine: Affine) -> Moments:
        """The batch's, after a run."""
        return saved.moments_of(self.rows_of(x), x, affine.mask is not None)

    def run(self, x: Tensor, affine: Affine) -> Tensor:
        if self.given is None:
            output, self.rows = self.backend.forward(
                x, affine, self.eps, self.channel_dim, self.running, self.momentum
            )
        else:
            output, self.rows = self.backend.evaluate(x, *self.given, affine, self.eps, self.channel_dim)
        return output

    def moments(self, x: Tensor, mask: Tensor | None) -> Moments:
        """The batch's again, differentiable any number of times."""
        return reference.moments(x, mask, self.channel_dim)

    def backward(
        self,
        backend: Backend,
        grad_output: Tensor,
        x: Tensor,
        affine: Affine,
        needs: Sequence[bool],
        output: Tensor | None,
    ) -> Gradients:
        rows = self.rows_of(x)
        return backend.backward(
            grad_output, x, rows, affine, self.channel_dim, needs, self.parameter_dtype, output
        )


def run(x: Tensor, affine: Affine, call: Call) -> Tensor:
    """Run a call, inside the autograd.Function where a gradient may be asked for."""
    weight, bias, residual, _, _ = affine
    if _is_differentiated(x, weight, bias, residual):
        output: Tensor = _apply(x, weight, bias, residual, call)
        return output
    return call.run(x, affine)


def _is_differentiated(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None
) -> bool:
    return torch.is_grad_enabled() and (
        x.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    )


class _Normalize(torch.autograd.Function):
    """Saves x, (C,)-sized numbers, and where the activation's backward asks for more a tensor that the network keeps.

    That is the residual, or of a relu after a residual the output.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, call: Call
    ) -> Tensor:
        output = call.run(x, Affine(weight, bias, residual, call.act, call.mask))
        _keep(ctx, x, weight, bias, residual, output, call)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return *differentiable_backward(ctx, grad_output), None
        return _general_backward(ctx, grad_output, ctx.saved_tensors)


# `Function.apply` without what it does for functorch: only plain tensors come here, outside of transforms.
_apply = super(torch.autograd.Function, _Normalize).apply


class _Direct(_Normalize):
    """The same around an output that `ops.direct` has computed, and asks it for the backward too."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, call: Call
    ) -> Tensor:
        output = call.output
        del call.output
        _keep(ctx, x, weight, bias, residual, output, call)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return _Normalize.backward(ctx, grad_output)
        tensors = ctx.saved_tensors  # once: activation checkpointing allows no second time
        x, weight, bias, second, _ = tensors
        call = ctx.call
        grads = direct.backward(
            grad_output,
            x,
            call.rows,
            weight,
            bias,
            second,
            call.act,
            call.keeps_output,
            ctx.needs_input_grad,
            call.parameter_dtype,
            call.channel_dim,
        )
        return _general_backward(ctx, grad_output, tensors) if grads is None else (*grads, None)


_apply_direct = super(torch.autograd.Function, _Direct).apply


def _keep(
    ctx: Any,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    output: Tensor,
    call: Call,
) -> None:
    act, mask = call.act, call.mask
    parameter = bias if weight is None else weight
    call.parameter_dtype = None if parameter is None else parameter.dtype
    call.keeps_output = act is not None and residual is not None and act.name == "relu"
    if act is None:
        ctx.save_for_backward(x, weight, None, None, mask)
    elif call.keeps_output:
        ctx.save_for_backward(x, weight, None, output, mask)
    else:
        ctx.save_for_backward(x, weight, bias, residual, mask)
    call.mask = call.given = call.running = None  # only what is saved stays alive
    ctx.call = call


def _general_backward(ctx: Any, grad_output: Tensor, tensors: tuple[Any, ...]) -> tuple[Tensor | None, ...]:
    x, weight, bias, second, mask = tensors
    call = ctx.call
    saved.check_unpacked(
        grad_output, tensors, call.channel_dim, call.backend is not reference, call.parameter_dtype
    )
    output, residual = (second, None) if call.keeps_output else (None, second)
    affine = Affine(weight, bias, residual, call.act, mask)
    # The forward's backend, unless something watches or batches this backward.
    backend = call.backend if is_plain(grad_output, x) and not is_batched(grad_output) else reference
    return *call.backward(backend, grad_output, x, affine, ctx.needs_input_grad, output), None
