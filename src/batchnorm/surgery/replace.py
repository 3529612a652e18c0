"""Exchange modules of a model, wherever it holds them."""

import copy
import dataclasses
import functools
from collections import deque
from collections.abc import Mapping
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from batchnorm.errors import ConversionError

__all__ = ["copied", "exchange", "refuse_scripted"]

# Registries and hooks, of which only the registered modules are exchanged.
_TORCHS_OWN = frozenset(vars(nn.Module()))
_ATOMS = (Tensor, str, bytes, int, float, complex, torch.dtype, torch.device)


def copied(model: nn.Module, verb: str) -> nn.Module:
    """A deep copy of a model.

    Args:
        model: the model.
        verb: name of the function that needs it, for the message.

    Raises:
        ConversionError: it cannot be copied.
    """
    refuse_scripted(model)
    # torch can copy a lazy layer's parameters but not its buffers.
    memo: dict[int, Any] = {}
    for buffer in model.buffers():
        if is_lazy(buffer):
            kind: Any = type(buffer)
            memo[id(buffer)] = kind(device=buffer.device, dtype=buffer.dtype)
    try:
        return copy.deepcopy(model, memo)
    except Exception as problem:
        text = " ".join(str(problem).split())
        raise ConversionError(
            f"{verb}: the model cannot be copied ({type(problem).__name__}: {text}); {verb}_ changes it in place"
        ) from problem


def refuse_scripted(model: nn.Module) -> None:
    """Raise ConversionError where TorchScript froze part of the model."""
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ConversionError(
                f"{path or 'the model'} is TorchScript, whose layers cannot change; do it before scripting"
            )


def exchange(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put modules in the place of others: where they are registered, and where attributes hold them.

    Followed are lists, tuples, dict values, sets and deques in any depth, bound methods and partials, namespaces,
    dataclasses, and objects whose class is defined beside one of the model's. Not followed are closures, globals,
    class attributes and the keys of dicts.

    Args:
        model: changed in place.
        new: old module -> the one that takes its place.

    Returns:
        The model, or what takes its place where it is itself among the old.
    """
    modules = [*model.modules(), *new.values()]
    walk = _Walk(new, {type(module).__module__ for module in modules})
    for module in modules:
        walk.done[id(module)] = (module, module)
    placed = {id(module) for module in new.values()}
    for module in modules:
        if module not in new and id(module) not in placed:
            walk.registered(module)
        walk.attributes(module)
    return new.get(model, model)


class _Walk:
    """One way through all that a model holds."""

    def __init__(self, new: Mapping[nn.Module, nn.Module], homes: set[str]) -> None:
        self.new = new
        self.homes = {home for home in homes if home.partition(".")[0] not in ("torch", "batchnorm")}
        # By identity, with the object itself, so that no id is used twice.
        self.done: dict[int, tuple[Any, Any]] = {}

    def registered(self, module: nn.Module) -> None:
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = self.of(child)

    def attributes(self, holder: Any) -> None:
        own = vars(holder)
        for name, value in list(own.items()):
            if not (isinstance(holder, nn.Module) and name in _TORCHS_OWN):
                _set(own, name, value, self.of(value))

    def of(self, value: Any) -> Any:
        """What stands in the place of a value; containers that can change are changed and stay."""
        if isinstance(value, nn.Module) and value in self.new:
            return self.new[value]
        if value is None or isinstance(value, _ATOMS):
            return value
        if id(value) not in self.done:
            self.done[id(value)] = (value, value)
            self.done[id(value)] = (value, self._changed(value))
        return self.done[id(value)][1]

    def _changed(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            self.registered(value)
            self.attributes(value)
        elif isinstance(value, list | deque):
            for number, item in enumerate(list(value)):
                _set(value, number, item, self.of(item))
        elif isinstance(value, dict):
            for key, item in list(value.items()):
                _set(value, key, item, self.of(item))
        elif isinstance(value, set):
            for item in list(value):
                if self.of(item) is not item:
                    value.remove(item)
                    value.add(self.of(item))
        elif isinstance(value, tuple | frozenset):
            items = [self.of(item) for item in value]
            if any(a is not b for a, b in zip(value, items, strict=True)):
                return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        elif isinstance(value, MethodType):
            owner = self.of(value.__self__)
            if owner is not value.__self__:
                return getattr(owner, value.__name__, value)
        elif isinstance(value, functools.partial):
            parts = self.of((value.func, value.args, dict(value.keywords)))
            return functools.partial(parts[0], *parts[1], **parts[2])
        elif self._is_plain(value):
            self.attributes(value)
        return value

    def _is_plain(self, value: Any) -> bool:
        kind = type(value)
        known = kind is SimpleNamespace or dataclasses.is_dataclass(value) or kind.__module__ in self.homes
        return known and not isinstance(value, type | FunctionType) and hasattr(value, "__dict__")


def _set(holder: Any, key: Any, old: Any, new: Any) -> None:
    if new is not old:
        holder[key] = new
