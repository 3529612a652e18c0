"""See that a model into which norms were put is the old one but for them, and undo it where it is not."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from batchnorm.surgery.restored import restored, run

__all__ = ["Structure", "agree", "outputs"]


class Structure:
    """Which modules a model has where, and its forward, to be put back.

    Args:
        model: the model; nothing of it is copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kind = type(model)
        self._graph = model.graph if isinstance(model, fx.GraphModule) else None
        self._attributes = [(module, dict(vars(module))) for module in model.modules()]
        self._children = [(module, dict(module._modules)) for module in model.modules()]

    def put_back(self) -> None:
        """Undo what was changed since; contents of the user's own containers aside."""
        self._model.__class__ = self._kind
        for module, attributes in self._attributes:
            vars(module).clear()
            vars(module).update(attributes)
        for module, children in self._children:
            module._modules.clear()
            module._modules.update(children)
        if self._graph is not None and isinstance(self._model, fx.GraphModule):
            self._model.graph = self._graph


def outputs(model: nn.Module, example: Any, bypassed: Iterable[nn.Module] = ()) -> list[Any]:
    """What a model gives on an example in evaluation and in training, with layers bypassed.

    Args:
        model: put back as it was.
        example: a batch, as for `run`.
        bypassed: layers that give a copy of their input: like a norm, and unlike the input, it is memory of its own.

    Returns:
        An output a mode, or the error that was raised.
    """
    found: list[Any] = []
    for training in (False, True):
        with restored(model):
            for layer in bypassed:
                vars(layer)["forward"] = torch.clone
            try:
                found.append(run(model, example, training=training))
            except Exception as problem:
                found.append(problem)
    return found


def agree(expected: list[Any], found: list[Any]) -> bool:
    """Whether outputs are the same up to rounding; where the old model raised there is nothing to compare."""
    for old, new in zip(expected, found, strict=True):
        if isinstance(old, Exception):
            continue
        a, b = (torch.utils._pytree.tree_leaves(value) for value in (old, new))
        if len(a) != len(b) or not all(_is_close(x, y) for x, y in zip(a, b, strict=True)):
            return False
    return True


def _is_close(old: Any, new: Any) -> bool:
    if not isinstance(old, Tensor) or not isinstance(new, Tensor):
        return type(old) is type(new)
    if old.is_meta:
        return old.shape == new.shape
    try:
        torch.testing.assert_close(new, old, equal_nan=True)
    except AssertionError:
        return False
    return True
