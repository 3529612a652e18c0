"""The loss and its gradient at any point of parameter space, without a trace in the model."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from batchnorm.errors import ArgumentError, ArgumentTypeError
from batchnorm.ops.reference import wide_dtype
from batchnorm.surgery.restored import restored

__all__ = [
    "Gradient",
    "Loss",
    "attached",
    "checked_model",
    "evaluate",
    "gradient",
    "isolated",
    "loss_at",
    "moved_to",
    "norm",
    "shifted",
    "trainable",
    "wide",
]

Loss = Callable[[nn.Module], Tensor]
"""A function of the model that runs it on a batch of its own and returns a tensor with one value."""

Gradient = tuple[float, list[Tensor]]
"""The loss, and its gradient for each trainable parameter."""


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, by name; a shared one counts once.

    Raises:
        ArgumentTypeError: model is not an nn.Module.
        ArgumentError: a lazy layer has not seen its first input, or no parameter requires a gradient.
    """
    checked_model(model)
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not found:
        raise ArgumentError("model: expected a parameter that requires a gradient, got none; unfreeze one")
    return found


def checked_model(model: Any) -> None:
    """Refuse what is no model, and lazy layers, whose parameters would come into being while they are measured."""
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ArgumentError(
                f"model: {name} belongs to a lazy layer that has not seen an input; run the model once before"
            )


@contextlib.contextmanager
def isolated(model: nn.Module) -> Iterator[None]:
    """Within it, gradients are on, and whatever evaluating the model changes is put back at the end."""
    with restored(model), torch.inference_mode(False), torch.enable_grad():
        for parameter in model.parameters():
            # A loss that calls backward itself would add to the user's gradient in place.
            parameter.grad = None
        yield


def evaluate(model: nn.Module, loss: Loss) -> Tensor:
    """The loss as a 0-d tensor.

    Raises:
        ArgumentTypeError: it is not a tensor.
        ArgumentError: it has not one value.
    """
    if not callable(loss):
        raise ArgumentTypeError(
            f"loss: expected a function of the model, got {type(loss).__name__}; "
            "write lambda model: criterion(model(x), y)"
        )
    value = loss(model)
    if not isinstance(value, Tensor):
        raise ArgumentTypeError(f"loss: expected it to return a tensor, got {type(value).__name__}")
    if value.numel() != 1:
        raise ArgumentError(
            f"loss: expected it to return one value, got shape {tuple(value.shape)}; take the mean or the sum"
        )
    return value.reshape(())


def loss_at(model: nn.Module, loss: Loss) -> float:
    """The loss where the model stands."""
    with isolated(model):
        # Gradients stay on, so that a loss that differentiates inside (a gradient penalty) works, to the same bits.
        return evaluate(model, loss).item()


def gradient(model: nn.Module, loss: Loss, wanted: Sequence[Tensor]) -> Gradient:
    """The loss where the model stands, and its gradient for some of its parameters: zeros for one it does not use.

    Raises:
        ArgumentError: the loss depends on no parameter that requires a gradient.
    """
    with isolated(model):
        value = attached(evaluate(model, loss))
        found = torch.autograd.grad(value, list(wanted), allow_unused=True, materialize_grads=True)
        return value.item(), [part.to_dense() if part.is_sparse else part for part in found]


def attached(value: Tensor) -> Tensor:
    """Return the loss, or refuse one without a graph."""
    if not value.requires_grad:
        raise ArgumentError(
            "loss: expected a value with a gradient, got one that depends on no parameter that requires a gradient; "
            "compute it from model(...), without detach() or no_grad()"
        )
    return value


@contextlib.contextmanager
def moved_to(values: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Within it, parameters have other values.

    Their storage is exchanged, not written to: a graph that the caller still has to run backward stays valid.

    Args:
        values: parameter -> tensor of its shape, type and device.
    """
    kept = {parameter: parameter.data for parameter in values}
    try:
        for parameter, value in values.items():
            parameter.data = value
        yield
    finally:
        for parameter, data in kept.items():
            parameter.data = data


def shifted(
    parameters: Sequence[nn.Parameter], direction: Sequence[Tensor], step: float
) -> tuple[dict[nn.Parameter, Tensor], float]:
    """The values theta - step * direction, rounded to the parameters' types, and the distance after rounding."""
    values, differences = {}, []
    with torch.inference_mode(False):
        for parameter, part in zip(parameters, direction, strict=True):
            start = wide(parameter)
            values[parameter] = (start - step * wide(part)).to(parameter.dtype)
            differences.append(norm([wide(values[parameter]) - start]))
    return values, math.hypot(*differences)


def wide(values: Tensor) -> Tensor:
    """Values without their history, as float64 where the device has it."""
    return values.detach().to(wide_dtype(values))


def norm(parts: Sequence[Tensor]) -> float:
    """The Euclidean norm over all values of all parts, in float64."""
    return math.hypot(*(torch.linalg.vector_norm(wide(part)).item() for part in parts))
