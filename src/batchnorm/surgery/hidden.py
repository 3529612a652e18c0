"""What counts as an activation: modules, functions and methods."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "ACTIVATION_MODULES",
    "GATE_MODULES",
    "is_activation_call",
    "is_gate_call",
    "is_in_place",
    "is_product",
]

ACTIVATION_MODULES: tuple[type[nn.Module], ...] = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Sigmoid,
    nn.Hardsigmoid,
    nn.LogSigmoid,
    nn.Threshold,
    nn.Softshrink,
    nn.Hardshrink,
)
# What these give is often multiplied with something else: then it is a gate, not a hidden layer's value.
GATE_MODULES: tuple[type[nn.Module], ...] = (nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.Softplus)


def _called(*names: str) -> frozenset[Any]:
    """Everything that these names stand for: functions, methods of tensors, and their in-place forms."""
    spaces = (torch, F, Tensor)
    forms = [form for name in names for form in (name, f"{name}_")]
    found = {getattr(space, form, None) for space, form in itertools.product(spaces, forms)} - {None}
    return frozenset(found | set(forms))


_ACTIVATIONS = _called(
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("hardswish", "hardtanh", "softplus", "softsign", "tanh", "tanhshrink", "sigmoid", "hardsigmoid"),
    *("logsigmoid", "threshold", "softshrink", "hardshrink"),
)
_GATES = _called("sigmoid", "hardsigmoid", "tanh", "softplus")
_CLAMPS = _called("clamp", "clip", "clamp_min")
_PRODUCTS = _called("mul", "multiply") | {Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__, "__mul__"}


def is_activation_call(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of a function, or of a method given by name, is an activation; `clamp(min=0)` is a relu."""
    if function in _ACTIVATIONS:
        return True
    if function not in _CLAMPS:
        return False
    least = args[1] if len(args) > 1 else kwargs.get("min")
    most = args[2] if len(args) > 2 else kwargs.get("max")
    return isinstance(least, int | float) and least == 0 and most is None


def is_gate_call(function: Any) -> bool:
    """Whether a function or method is one whose values often gate others by multiplication."""
    return function in _GATES


def is_product(function: Callable[..., Any] | str, operators: frozenset[Any]) -> bool:
    """Whether a function or method multiplies elements; `operators` are Python's own for it."""
    return function in _PRODUCTS or function in operators


def is_in_place(function: Any, kwargs: Mapping[str, Any], args: Sequence[Any] = ()) -> bool:
    """Whether an activation's call overwrites its input."""
    name = function if isinstance(function, str) else getattr(function, "__name__", "")
    # relu, relu6, elu and the like take `inplace` last; as a positional argument it is the only bool they take.
    return name.endswith("_") or bool(kwargs.get("inplace")) or any(value is True for value in args[1:])
