"""What modules take and give on one batch."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor, nn

from batchnorm.probes.evaluation import checked_model
from batchnorm.probes.seen import Measure, Seen, first_tensor, modules_at
from batchnorm.surgery.restored import call, restored

__all__ = ["activations"]

T = TypeVar("T")


@overload
def activations(
    model: nn.Module, example: Any, at: Sequence[str], *, measure: None = None
) -> list[Seen[Tensor]]: ...


@overload
def activations(
    model: nn.Module, example: Any, at: Sequence[str], *, measure: Measure[T]
) -> list[Seen[T]]: ...


def activations(
    model: nn.Module, example: Any, at: Sequence[str], *, measure: Measure[Any] | None = None
) -> list[Seen[Any]]:
    """Run a model on one batch, and record inputs and outputs of some of its modules.

    One forward pass without gradients. Memory: a copy of each recorded tensor, or what `measure` leaves of it.

    Args:
        model: runs in the modes its modules are in; put back as it was, also when the pass raises.
        example: a batch; a tuple or list gives the positional arguments, a dict the named ones. The model gets a copy.
        at: paths of modules, as `model.named_modules()` has them.
        measure: makes something of each tensor, before later code can change it in place; default a copy of it.

    Returns:
        A `Seen` for each call of each of them, in the order in which the calls end. A module that is not called, or
        whose forward is called past its hooks, is left out.

    Raises:
        ArgumentError: (ValueError) a path leads to no module, or a lazy layer has not seen an input.
        ArgumentTypeError: (TypeError) model is not an nn.Module, or at is not a list of paths.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from batchnorm import probes
        >>> model = nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True))
        >>> probes.activations(model, torch.tensor([[-1.0, 2.0]]), ["1"])
        [Seen(path='1', call=0, input=tensor([[-1.,  2.]]), output=tensor([[0., 2.]]))]
        >>> probes.activations(
        ...     model, torch.tensor([[-1.0, 2.0]]), ["1"], measure=lambda values: values.sum().item()
        ... )
        [Seen(path='1', call=0, input=1.0, output=2.0)]
    """
    checked_model(model)
    watched = modules_at(model, at)
    seen: list[Seen[Any]] = []
    with restored(model), torch.no_grad():
        for path, module in watched:
            watch = _Watch(path, measure or torch.clone, seen)
            module.register_forward_pre_hook(watch.enter, with_kwargs=True)
            module.register_forward_hook(watch.leave)
        call(model, example)
    return seen


class _Watch(Generic[T]):
    def __init__(self, path: str, measure: Measure[T], seen: list[Seen[T]]) -> None:
        self.path, self.measure, self.seen = path, measure, seen
        self.calls = 0
        self.open: list[tuple[int, Tensor | None, int, T | None]] = []  # a module may call itself

    def enter(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        taken = first_tensor((args, kwargs))
        measured = None if taken is None else self.measure(taken.detach())
        self.open.append((self.calls, taken, _version(taken), measured))
        self.calls += 1

    def leave(self, _: nn.Module, __: Any, output: Any) -> None:
        number, taken, version, before = self.open.pop()
        given = first_tensor(output)
        if given is not None and given is taken and _version(given) == version >= 0:
            after = before  # an identity
        else:
            after = None if given is None else self.measure(given.detach())
        self.seen.append(Seen(self.path, number, before, after))


def _version(tensor: Tensor | None) -> int:
    return -1 if tensor is None or tensor.is_inference() else tensor._version
