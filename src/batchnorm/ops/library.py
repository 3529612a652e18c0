"""The native kernels as functional torch.library operators, which torch.compile can put into its graphs.

A ctypes call cannot be traced, and tracing the reference gives a graph several times slower than eager mode. These
operators change nothing in place: running statistics move by traced torch code, from the numbers returned.
"""

from typing import Any

import torch
from torch import Tensor

from batchnorm._state import CHOICE
from batchnorm.activations import Activation
from batchnorm.ops import native, saved
from batchnorm.ops.layout import form_of
from batchnorm.ops.reference import Affine
from batchnorm.ops.shared_library import load

__all__ = ["evaluate", "forward", "serves"]

_LIBRARY = torch.library.Library("batchnorm", "DEF")
_AFFINE = "Tensor? weight, Tensor? bias, Tensor? second, Tensor? mask, str act, float act_parameter"
_LIBRARY.define(f"forward(Tensor x, {_AFFINE}, float eps, int channel_dim) -> (Tensor, Tensor)")
_LIBRARY.define(
    f"evaluate(Tensor x, Tensor mean, Tensor var, {_AFFINE}, float eps, int channel_dim) -> (Tensor, Tensor)"
)
_LIBRARY.define(
    f"backward(Tensor grad_output, Tensor x, Tensor rows, {_AFFINE}, int channel_dim, bool of_output, bool[] needs, "
    "ScalarType parameter_dtype) -> (Tensor, Tensor, Tensor, Tensor)"
)


def serves(x: Tensor, affine: Affine) -> bool:
    """Whether a call that torch.compile traces becomes one of these operators; others are traced as the reference."""
    return (
        torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
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
    result: tuple[Tensor, Tensor] = torch.ops.batchnorm.forward(x, *_flat(affine), eps, channel_dim)
    return result


def evaluate(
    x: Tensor, mean: Tensor, var: Tensor, affine: Affine, eps: float, channel_dim: int
) -> tuple[Tensor, Tensor]:
    """As `reference.evaluate`."""
    result: tuple[Tensor, Tensor] = torch.ops.batchnorm.evaluate(
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
    *affine, eps, channel_dim = rest
    output, rows = native.forward(x, _affine(*affine), eps, channel_dim)
    rows[-1, 1:].zero_()  # what an operator returns may not depend on what was in memory
    return output, rows


def _evaluate(x: Tensor, mean: Tensor, var: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *affine, eps, channel_dim = rest
    return native.evaluate(x, mean, var, _affine(*affine), eps, channel_dim)


def _backward(grad_output: Tensor, x: Tensor, rows: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *affine, channel_dim, of_output, needs, parameter_dtype = rest
    given = _affine(*affine)
    output = given.residual if of_output else None
    grads = native.backward(grad_output, x, rows, given, channel_dim, needs, parameter_dtype, output)
    return tuple(_returned(grad, grad_output, x) for grad in grads)


def _returned(grad: Tensor | None, grad_output: Tensor, x: Tensor) -> Tensor:
    if grad is None:
        return x.new_empty(0)
    return grad.clone() if grad is grad_output else grad  # an operator's output may be none of its inputs


def _empty_output(x: Tensor) -> Tensor:
    return torch.empty_like(x if x.is_contiguous() else x.contiguous(memory_format=form_of(x)))


def _fake_forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _empty_output(x), x.new_empty((saved.BATCH_ROWS, x.size(rest[-1])), dtype=torch.float64)


def _fake_evaluate(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _empty_output(x), x.new_empty((saved.GIVEN_ROWS, x.size(rest[-1])), dtype=torch.float64)


def _fake_backward(_grad_output: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *_, channel_dim, _, needs, parameter_dtype = rest
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
    ctx.set_materialize_grads(True)


def _gradients(ctx: Any, grad_output: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    act, parameter, channel_dim, of_output, parameter_dtype = ctx.how
    x, rows, weight, bias, second, mask = ctx.saved_tensors
    given = ctx.given
    needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[1 + given : 4 + given]]
    affine = weight, bias, second, mask, act, parameter
    grads = torch.ops.batchnorm.backward(
        grad_output, x, rows, *affine, channel_dim, of_output, needs, parameter_dtype
    )
    of_x, *others = (grad if need else None for grad, need in zip(grads, needs, strict=True))
    return of_x, *(None,) * given, *others, *(None,) * 5


for _name, _kernel, _fake in (
    ("forward", _forward, _fake_forward),
    ("evaluate", _evaluate, _fake_evaluate),
    ("backward", _backward, _fake_backward),
):
    _LIBRARY.impl(_name, _kernel, "CPU")
    torch.library.register_fake(f"batchnorm::{_name}", _fake, lib=_LIBRARY)
for _name in ("forward", "evaluate"):
    torch.library.register_autograd(f"batchnorm::{_name}", _gradients, setup_context=_save, lib=_LIBRARY)
