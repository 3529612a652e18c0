"""The native kernels as functional torch.library operators, which torch.compile can put into its graphs.

A ctypes call cannot be traced, and tracing the reference gives a graph several times slower than eager mode. These
operators change nothing in place: running statistics move by traced torch code, from the numbers returned.
"""

import itertools
from typing import Any

import torch
from torch import Tensor

from batchnorm._state import CHOICE
from batchnorm.activations import Activation
from batchnorm.ops import native, saved
from batchnorm.ops.eager import in_function_transform
from batchnorm.ops.layout import form_of
from batchnorm.ops.reference import Affine
from batchnorm.ops.shared_library import load

__all__ = ["NAMESPACE", "evaluate", "forward", "serves"]

# Compiled code outlives an upgrade of this package, in inductor's cache: what operators take or give may only change
# together with this number.
NAMESPACE = "batchnorm_v1"
_LIBRARY = torch.library.Library(NAMESPACE, "DEF")
_AFFINE = "Tensor? weight, Tensor? bias, Tensor? second, Tensor? mask, str act, float act_parameter"
# What begins with _ has no autograd kernel: it is what stays in a compiled graph, where every kernel costs time.
for _prefix in ("", "_"):
    _LIBRARY.define(f"{_prefix}forward(Tensor x, {_AFFINE}, float eps, int channel_dim) -> (Tensor, Tensor)")
    _LIBRARY.define(
        f"{_prefix}evaluate(Tensor x, Tensor mean, Tensor var, {_AFFINE}, float eps, int channel_dim) "
        "-> (Tensor, Tensor)"
    )
_LIBRARY.define(
    f"_backward(Tensor grad_output, Tensor x, Tensor rows, {_AFFINE}, int channel_dim, bool of_output, int needs, "
    "ScalarType parameter_dtype) -> (Tensor, Tensor, Tensor, Tensor)"
)

# The sets of gradients that a backward may be asked for, of x, weight, bias and residual; operators pass the index.
_NEEDS = tuple(itertools.product((False, True), repeat=4))


def serves(x: Tensor, affine: Affine) -> bool:
    """Whether a call that torch.compile traces becomes one of these operators; others are traced as the reference."""
    return (
        torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and not in_function_transform()
        and CHOICE.backend != "reference"
        and native.serves(x, affine)
        and _is_loaded()
    )


def _is_loaded() -> bool:
    return not isinstance(load(), str)


# What torch.compiler.assume_constant_result does, without loading torch._dynamo for those who never compile.
_is_loaded._dynamo_marked_constant = True  # type: ignore[attr-defined]


def forward(x: Tensor, affine: Affine, eps: float, channel_dim: int) -> tuple[Tensor, Tensor]:
    """As `reference.forward`."""
    result: tuple[Tensor, Tensor] = torch.ops.batchnorm_v1.forward(x, *_flat(affine), eps, channel_dim)
    return result


def evaluate(
    x: Tensor, mean: Tensor, var: Tensor, affine: Affine, eps: float, channel_dim: int
) -> tuple[Tensor, Tensor]:
    """As `reference.evaluate`."""
    result: tuple[Tensor, Tensor] = torch.ops.batchnorm_v1.evaluate(
        x, mean, var, *_flat(affine), eps, channel_dim
    )
    return result


def _flat(affine: Affine) -> tuple[Any, ...]:
    weight, bias, residual, act, mask = affine
    return (
        weight,
        bias,
        residual,
        mask,
        "" if act is None else act.name,
        0.0 if act is None else act.parameter,
    )


def _affine(
    weight: Tensor | None,
    bias: Tensor | None,
    second: Tensor | None,
    mask: Tensor | None,
    act: str,
    parameter: float,
) -> Affine:
    return Affine(weight, bias, second, Activation(act, parameter) if act else None, mask)


def _forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    output, rows = native.forward(x, _affine(*rest[:6]), *rest[6:])
    rows[-1, 1:].zero_()  # what an operator returns may not depend on what was in memory
    return output, rows


def _evaluate(x: Tensor, mean: Tensor, var: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return native.evaluate(x, mean, var, _affine(*rest[:6]), *rest[6:])


def _backward(grad_output: Tensor, x: Tensor, rows: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    channel_dim, of_output, needs, parameter_dtype = rest[6:]
    output = rest[2] if of_output else None
    of_x, of_weight, of_bias, of_residual = native.backward(
        grad_output, x, rows, _affine(*rest[:6]), channel_dim, _NEEDS[needs], parameter_dtype, output
    )
    if of_residual is grad_output:  # an operator's output may be none of its inputs
        of_residual = grad_output.clone()
    return (
        x.new_empty(0) if of_x is None else of_x,
        x.new_empty(0) if of_weight is None else of_weight,
        x.new_empty(0) if of_bias is None else of_bias,
        x.new_empty(0) if of_residual is None else of_residual,
    )


def _empty_output(x: Tensor) -> Tensor:
    return torch.empty_like(x if x.is_contiguous() else x.contiguous(memory_format=form_of(x)))


def _fake_forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _empty_output(x), x.new_empty((saved.BATCH_ROWS, x.size(rest[-1])), dtype=torch.float64)


def _fake_evaluate(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _empty_output(x), x.new_empty((saved.GIVEN_ROWS, x.size(rest[-1])), dtype=torch.float64)


def _fake_backward(_grad_output: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *_, channel_dim, _, which, parameter_dtype = rest
    needs = _NEEDS[which]
    channels = x.size(channel_dim)
    return (
        _empty_output(x) if needs[0] else x.new_empty(0),
        x.new_empty(channels if needs[1] else 0, dtype=parameter_dtype if needs[1] else x.dtype),
        x.new_empty(channels if needs[2] else 0, dtype=parameter_dtype if needs[2] else x.dtype),
        _empty_output(x) if needs[3] else x.new_empty(0),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *given, weight, bias, residual, mask, act, parameter, _, channel_dim = inputs
    ctx.given = len(given) - 1
    of_output = act == "relu" and residual is not None
    second = output[0] if of_output else residual if act else None
    ctx.save_for_backward(given[0], output[1], weight, bias if act and not of_output else None, second, mask)
    kind = weight if weight is not None else bias
    ctx.how = act, parameter, channel_dim, of_output, given[0].dtype if kind is None else kind.dtype
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad_output: Tensor, _of_rows: Tensor | None) -> tuple[Any, ...]:
    act, parameter, channel_dim, of_output, parameter_dtype = ctx.how
    x, rows, weight, bias, second, mask = ctx.saved_tensors
    given = ctx.given
    _, *wanted = ctx.needs_input_grad
    needs = (wanted[0], *wanted[1 + given : 4 + given])
    affine = weight, bias, second, mask, act, parameter
    grads = torch.ops.batchnorm_v1._backward(
        grad_output, x, rows, *affine, channel_dim, of_output, _NEEDS.index(needs), parameter_dtype
    )
    of_x, *others = (grad if need else None for grad, need in zip(grads, needs, strict=True))
    return of_x, *(None,) * given, *others, *(None,) * 5


class _Differentiable(torch.autograd.Function):
    """What AOTAutograd traces in place of `forward` and `evaluate`."""

    @staticmethod
    def forward(ctx: Any, operator: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        output: tuple[Tensor, Tensor] = operator(*inputs)
        _save(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        return None, *_gradients(ctx, *grads)


def _differentiable_forward(*inputs: Any) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = _Differentiable.apply(torch.ops.batchnorm_v1._forward.default, *inputs)
    return result


def _differentiable_evaluate(*inputs: Any) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = _Differentiable.apply(torch.ops.batchnorm_v1._evaluate.default, *inputs)
    return result


for _name, _kernel, _fake in (
    ("_forward", _forward, _fake_forward),
    ("_evaluate", _evaluate, _fake_evaluate),
    ("_backward", _backward, _fake_backward),
):
    _LIBRARY.impl(_name, _kernel, "CPU")
    torch.library.register_fake(f"{NAMESPACE}::{_name}", _fake, lib=_LIBRARY)
_LIBRARY.impl("forward", _differentiable_forward, "CompositeImplicitAutograd")
_LIBRARY.impl("evaluate", _differentiable_evaluate, "CompositeImplicitAutograd")
