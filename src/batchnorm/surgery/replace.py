"""Exchange modules of a model, wherever it holds them."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from batchnorm.errors import ConversionError

__all__ = ["copied", "exchange", "refuse_scripted"]


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
    """Put modules in the place of others: where they are registered, and in plain attributes, lists, tuples and dicts.

    Args:
        model: changed in place.
        new: old module -> the one that takes its place.

    Returns:
        The model, or what takes its place where it is itself among the old.
    """
    for module in list(model.modules()):
        if module in new:
            continue
        for name, child in module._modules.items():
            if child is not None and child in new:
                module._modules[name] = new[child]
        for name, value in vars(module).items():
            if not name.startswith("_") and _holds(value, new):
                vars(module)[name] = _exchanged(value, new)
    return new.get(model, model)


def _holds(value: Any, new: Mapping[nn.Module, nn.Module]) -> bool:
    if isinstance(value, nn.Module):
        return value in new
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return False
    return any(isinstance(item, nn.Module) and item in new for item in value)


def _exchanged(value: Any, new: Mapping[nn.Module, nn.Module]) -> Any:
    def one(item: Any) -> Any:
        return new.get(item, item) if isinstance(item, nn.Module) else item

    if isinstance(value, list):
        value[:] = [one(item) for item in value]
    elif isinstance(value, dict):
        value.update({key: one(item) for key, item in value.items()})
    elif isinstance(value, tuple):
        items = [one(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    else:
        return one(value)
    return value
