"""Run a model on the batches of a data set, in whatever form they come."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_map

from batchnorm.errors import ArgumentError, ArgumentTypeError, DataError

__all__ = ["Batches"]

Forward = Callable[[nn.Module, Any], Any]


class Batches:
    """The batches of a data set, which can be run through a model once or several times.

    Args:
        data: an iterable of batches; a lone tensor or dict is one batch.
        limit: at most so many; None for all.
        forward: called as forward(model, batch); None for `model(batch)`, `model(batch[0])` of a tuple or list, and
            `model(**batch)` of a dict.

    Raises:
        ArgumentTypeError: (TypeError) data is not iterable, limit no int, or forward cannot be called.
        ArgumentError: (ValueError) limit is not positive.
    """

    def __init__(self, data: Any, limit: int | None, forward: Forward | None) -> None:
        if isinstance(data, Tensor | Mapping | PackedSequence):
            data = [data]
        if not isinstance(data, Iterable) or isinstance(data, str | bytes):
            raise ArgumentTypeError(
                f"data must be an iterable of batches, such as a DataLoader, got {type(data).__name__}"
            )
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool)):
            raise ArgumentTypeError(f"batches must be an int or None, got {type(limit).__name__}")
        if limit is not None and limit < 1:
            raise ArgumentError(f"batches must be at least 1, got {limit}")
        if forward is not None and not callable(forward):
            raise ArgumentTypeError(
                f"forward must be a function of model and batch, got {type(forward).__name__}"
            )
        self.data, self.limit, self.forward = data, limit, forward

    @property
    def only_once(self) -> bool:
        """Whether the data are an iterator, which gives its batches once."""
        return isinstance(self.data, Iterator)

    def run(self, model: nn.Module) -> Iterator[int]:
        """Run the model on each batch, on the model's device, without gradients; yields the batch's number before it.

        A batch is copied, since a model may work in place on its input.

        Raises:
            DataError: (ValueError) a batch of a type that nothing is known of.
        """
        devices = {t.device for t in (*model.parameters(), *model.buffers())}
        device = devices.pop() if len(devices) == 1 else None
        for number, batch in enumerate(itertools.islice(self.data, self.limit)):
            yield number
            own = tree_map(lambda leaf: _own(leaf, device), batch)
            with torch.no_grad():
                if self.forward is None:
                    _call(model, own, number)
                else:
                    self.forward(model, own)


def _own(leaf: Any, device: torch.device | None) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.detach().to(leaf.device if device is None else device, copy=True)
    # A PackedSequence, or the dict-like batch of a tokenizer.
    return leaf.to(device) if device is not None and hasattr(leaf, "to") else leaf


def _call(model: nn.Module, batch: Any, number: int) -> None:
    given = batch
    if isinstance(batch, tuple | list) and not isinstance(batch, PackedSequence) and batch:
        given = batch[0]
    if isinstance(given, Mapping):
        model(**given)
    elif isinstance(given, Tensor | PackedSequence):
        model(given)
    else:
        raise DataError(
            f"data: batch {number} is a {_kind(batch)}; expected a tensor, a tuple or list whose first item is the "
            "input, or a dict of named inputs; for anything else give forward=lambda model, batch: ..."
        )


def _kind(batch: Any) -> str:
    kind = type(batch).__name__
    if isinstance(batch, tuple | list):
        return f"{kind} of {type(batch[0]).__name__}" if batch else f"{kind} of nothing"
    return kind
