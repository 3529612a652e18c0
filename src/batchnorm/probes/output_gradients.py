"""Gradients of the loss for what modules take and give."""

from collections.abc import Sequence
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from batchnorm.probes.evaluation import Loss, attached, checked_model, evaluate, isolated, norm
from batchnorm.probes.seen import Measure, Seen, first_tensor, modules_at, with_first_tensor

__all__ = ["activation_gradient_norms", "activation_gradients"]

T = TypeVar("T")


@overload
def activation_gradients(
    model: nn.Module, loss: Loss, at: Sequence[str], *, measure: None = None
) -> list[Seen[Tensor]]: ...


@overload
def activation_gradients(
    model: nn.Module, loss: Loss, at: Sequence[str], *, measure: Measure[T]
) -> list[Seen[T]]: ...


def activation_gradients(
    model: nn.Module, loss: Loss, at: Sequence[str], *, measure: Measure[Any] | None = None
) -> list[Seen[Any]]:
    """The gradients of the loss for inputs and outputs of some modules.

    dL/dh, through every way on which h reaches the loss

    One forward and backward pass. Memory: the graph, a copy of each of these tensors, and their gradients.

    Args:
        model: runs in the modes its modules are in; put back as it was, also when the pass raises. Its parameters may
            all be frozen.
        loss: model -> tensor with one value.
        at: paths of modules, as `model.named_modules()` has them.
        measure: makes something of each gradient; default the gradient itself.

    Returns:
        A `Seen` for each call of each module, in the order in which the calls end; None where a module takes or gives
        no floating-point tensor, and for an input that is changed in place later, whose gradient is lost. 0 where the
        loss does not depend on it. An input that needs no gradient, such as the batch itself, counts from the call on:
        what was computed from it before has no graph.

    Raises:
        ArgumentError: (ValueError) a path leads to no module, a lazy layer has not seen an input, or the loss has not
            one value or no gradient.
        ArgumentTypeError: (TypeError) an argument is of another type.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from batchnorm import probes
        >>> model = nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True))
        >>> x = torch.tensor([[-1.0, 2.0]])
        >>> probes.activation_gradients(model, lambda model: 3 * model(x).sum(), ["1"])
        [Seen(path='1', call=0, input=tensor([[0., 3.]]), output=tensor([[3., 3.]]))]
    """
    checked_model(model)
    watched = modules_at(model, at)
    calls: list[_Call] = []
    borrowed: list[Tensor] = []
    try:
        with isolated(model):
            for path, module in watched:
                watch = _Watch(path, calls, borrowed)
                module.register_forward_pre_hook(watch.enter, with_kwargs=True)
                module.register_forward_hook(watch.leave)
            value = attached(evaluate(model, loss))
            ended = list(calls)  # a recomputation in backward calls the hooks again
            tensors = [t for c in ended for t in (c.taken_unchanged(), c.given) if t is not None]
            found = iter(
                torch.autograd.grad(value, tensors, allow_unused=True, materialize_grads=True)
                if tensors
                else ()
            )
        make = measure or _itself
        with torch.no_grad():
            return [
                Seen(
                    c.path,
                    c.number,
                    None if c.taken_unchanged() is None else make(next(found)),
                    None if c.given is None else make(next(found)),
                )
                for c in ended
            ]
    finally:
        for tensor in borrowed:
            tensor.requires_grad_(False)


def activation_gradient_norms(model: nn.Module, loss: Loss, at: Sequence[str]) -> list[Seen[float]]:
    """The norms of the gradients of the loss for inputs and outputs of some modules.

    ||dL/dh||

    One forward and backward pass. Memory: the graph, a copy of each of these tensors, and their gradients.

    Args:
        model: runs in the modes its modules are in; put back as it was, also when the pass raises.
        loss: model -> tensor with one value.
        at: paths of modules, as `model.named_modules()` has them.

    Returns:
        A `Seen` for each call of each module, with norms added up in float64; see `activation_gradients`.

    Raises:
        ArgumentError: (ValueError) a path leads to no module, a lazy layer has not seen an input, or the loss has not
            one value or no gradient.
        ArgumentTypeError: (TypeError) an argument is of another type.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from batchnorm import probes
        >>> model, x = nn.Sequential(nn.Flatten(), nn.ReLU()), torch.tensor([[-1.0, 2.0]])
        >>> probes.activation_gradient_norms(model, lambda model: model(x).square().sum(), ["1"])
        [Seen(path='1', call=0, input=4.0, output=4.0)]

    Source: Yang et al. 2019, arXiv:1902.08129, of depth; Cooijmans et al. 2017, arXiv:1603.09025, figure 1, of time.
    """
    return activation_gradients(model, loss, at, measure=lambda values: norm([values]))


def _itself(values: Tensor) -> Tensor:
    return values


class _Call:
    def __init__(self, path: str, number: int, taken: Tensor | None) -> None:
        self.path, self.number, self.taken = path, number, taken
        self.version = None if taken is None else taken._version
        self.given: Tensor | None = None

    def taken_unchanged(self) -> Tensor | None:
        """The input, unless later code wrote to it, after which autograd knows only the new value."""
        return self.taken if self.taken is not None and self.taken._version == self.version else None


class _Watch:
    def __init__(self, path: str, calls: list[_Call], borrowed: list[Tensor]) -> None:
        self.path, self.calls, self.borrowed = path, calls, borrowed
        self.count = 0
        self.open: list[_Call] = []  # a module may call itself

    def enter(self, _: nn.Module, args: Any, kwargs: Any) -> Any:
        taken = first_tensor((args, kwargs))
        if taken is not None and not taken.is_floating_point():
            taken = None
        if taken is not None and not taken.requires_grad:
            taken.requires_grad_()
            self.borrowed.append(taken)
        self.open.append(_Call(self.path, self.count, taken))
        self.count += 1
        # The module gets a copy, since it may work in place.
        return None if taken is None else with_first_tensor((args, kwargs), torch.clone)

    def leave(self, _: nn.Module, __: Any, output: Any) -> Any:
        call = self.open.pop()
        self.calls.append(call)
        given = first_tensor(output)
        if given is None or not given.is_floating_point():
            return None
        call.given = given if given.requires_grad else given.detach().requires_grad_()
        kept = call.given
        # The rest of the model gets a copy, since it may work in place.
        return with_first_tensor(output, lambda _: kept.clone())
