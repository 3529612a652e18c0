"""The activations that batch norm can apply in the same pass: name <-> module <-> forward and backward formula."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batchnorm.errors import ActivationError

__all__ = ["NAMES", "Activation", "ActivationLike", "resolve"]


class _Formula(NamedTuple):
    forward: Callable[[Tensor, float], Tensor]
    backward: Callable[[Tensor, Tensor, float], Tensor]
    parameter: float = 0.0


def _silu_backward(grad: Tensor, z: Tensor, _: float) -> Tensor:
    sigmoid = torch.sigmoid(z)
    return grad * (sigmoid * (1 + z * (1 - sigmoid)))


# erfc and sigmoid keep their digits in the left tail, where torch's 1 + erf and 1 + tanh cancel.
def _normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * torch.erfc(z * -0.7071067811865476)


def _gelu_backward(grad: Tensor, z: Tensor, _: float) -> Tensor:
    pdf = torch.exp(-0.5 * z * z) * 0.3989422804014327
    return grad * (_normal_cdf(z) + z * pdf)


def _tanh_gate(z: Tensor) -> Tensor:
    z = z.clamp(-50, 50)  # exactly 0 or 1 from there on, and the cube may be infinite
    return torch.sigmoid(1.5957691216057308 * (z + 0.044715 * z * z * z))


def _gelu_tanh_backward(grad: Tensor, z: Tensor, _: float) -> Tensor:
    z = z.clamp(-50, 50)  # as in the gate
    gate = _tanh_gate(z)
    slope = 1.5957691216057308 * (1 + 0.134145 * z * z)
    return grad * (gate + z * gate * (1 - gate) * slope)


def _hardswish_backward(grad: Tensor, z: Tensor, _: float) -> Tensor:
    middle = torch.where(z < 3, grad * (z / 3 + 0.5), grad)
    return torch.where(z <= -3, 0.0, middle)


# The comparisons put NaN and the kinks on the side on which torch puts them.
_FORMULAS = {
    "relu": _Formula(lambda z, _: F.relu(z), lambda grad, z, _: torch.where(z <= 0, 0.0, grad)),
    "relu6": _Formula(
        lambda z, _: F.relu6(z), lambda grad, z, _: torch.where((z <= 0) | (z >= 6), 0.0, grad)
    ),
    "leaky_relu": _Formula(
        lambda z, slope: F.leaky_relu(z, slope),
        lambda grad, z, slope: torch.where(z > 0, grad, grad * slope),
        0.01,
    ),
    "silu": _Formula(lambda z, _: F.silu(z), _silu_backward),
    "gelu": _Formula(lambda z, _: z * _normal_cdf(z), _gelu_backward),
    "gelu_tanh": _Formula(lambda z, _: z * _tanh_gate(z), _gelu_tanh_backward),
    "hardswish": _Formula(lambda z, _: F.hardswish(z), _hardswish_backward),
    "elu": _Formula(
        lambda z, alpha: F.elu(z, alpha),
        lambda grad, z, alpha: torch.where(z <= 0, grad * alpha * torch.exp(z), grad),
        1.0,
    ),
}

NAMES = tuple(_FORMULAS)


@dataclass(frozen=True)
class Activation:
    """One activation with its parameter (the slope of leaky_relu, the alpha of elu).

    Args:
        name: one of `NAMES`.
        parameter: float; without meaning for activations that have none.
    """

    name: str
    parameter: float

    def forward(self, z: Tensor) -> Tensor:
        """Apply it to the pre-activation `z`."""
        return _FORMULAS[self.name].forward(z, self.parameter)

    def backward(self, grad: Tensor, z: Tensor) -> Tensor:
        """Return `grad * f'(z)`."""
        return _FORMULAS[self.name].backward(grad, z, self.parameter)


_BY_NAME = {name: Activation(name, formula.parameter) for name, formula in _FORMULAS.items()}

ActivationLike = str | nn.Module | Activation | None


def _from_module(module: nn.Module) -> Activation | None:
    # Exact classes: a subclass may compute something else.
    kind = type(module)
    simple = {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.SiLU: "silu", nn.Hardswish: "hardswish"}
    if kind in simple:
        return Activation(simple[kind], 0.0)
    if isinstance(module, nn.LeakyReLU) and kind is nn.LeakyReLU:
        return Activation("leaky_relu", module.negative_slope)
    if isinstance(module, nn.ELU) and kind is nn.ELU:
        return Activation("elu", module.alpha)
    if isinstance(module, nn.GELU) and kind is nn.GELU:
        return Activation("gelu_tanh" if module.approximate == "tanh" else "gelu", 0.0)
    return None


def resolve(act: ActivationLike) -> Activation | None:
    """Turn what a caller passes as `act` into an `Activation`.

    Args:
        act: None or `nn.Identity()` for no activation, a name from `NAMES` (with the parameter that the
            torch module has by default), an instance of the torch module, e.g. `nn.LeakyReLU(0.1)`, or an
            `Activation`.

    Returns:
        The activation, or None for the identity.

    Raises:
        ActivationError: it is none of these.

    Example:
        >>> from batchnorm.activations import resolve
        >>> resolve("relu").name
        'relu'
    """
    if act is None or type(act) is nn.Identity:
        return None
    if isinstance(act, Activation):
        return act
    if isinstance(act, str) and act in _BY_NAME:
        return _BY_NAME[act]
    if isinstance(act, nn.Module):
        found = _from_module(act)
        if found is not None and (act._forward_hooks or act._forward_pre_hooks or act._backward_hooks):
            raise ActivationError(
                f"act: {act!r} has hooks, which would not run; apply it to the layer's output instead"
            )
        if found is not None:
            return found
    shown = repr(act) if isinstance(act, str | nn.Module) else f"{type(act).__name__} {act!r}"
    raise ActivationError(
        f"act must be None, one of {', '.join(NAMES)}, or the matching torch.nn module, got {shown}; "
        "apply other activations to the layer's output"
    )
