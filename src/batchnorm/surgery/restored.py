"""Run a model and leave no trace: what a forward pass may change is put back bit-exact."""

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map

from batchnorm.errors import ConversionError
from batchnorm.surgery.contents import Contents

__all__ = ["call", "generators_kept", "materialise", "own", "restored", "run"]


@contextlib.contextmanager
def generators_kept(model: nn.Module | None = None) -> Iterator[None]:
    """Within it, draws from the generators of Python, numpy and torch do not count: their states are put back.

    Args:
        model: its devices' generators are kept beside that of the CPU.
    """
    tensors = [*model.parameters(), *model.buffers()] if model is not None else []
    devices = sorted({t.device.index or 0 for t in tensors if t.device.type == "cuda"})
    python = random.getstate()
    numpy: Any = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy is not None else None
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        if numpy is not None and numpy_state is not None:
            numpy.random.set_state(numpy_state)


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Within it, the model may run in any mode; at the end everything is as it was, also when a pass raised.

    Put back: every module's attributes (training flag, plain attributes, hooks, registered parameters, buffers and
    modules), the items of lists, dicts, sets and deques in them, the values of buffers and parameters, gradients, and
    the random generators. Not put back is what other objects, closures and globals hold.
    """
    modules = list(model.modules())
    attributes = [dict(vars(module)) for module in modules]
    registered = [
        {key: dict(value) for key, value in vars(module).items() if _is_registry(key, value)}
        for module in modules
    ]
    contents = Contents(model)
    tensors = [t for t in (*model.parameters(), *model.buffers()) if not is_lazy(t)]
    values = [t.detach().clone() for t in tensors]
    gradients = [(p, p.grad) for p in model.parameters() if not is_lazy(p)]
    try:
        with generators_kept(model):
            yield
    finally:
        for module, kept, registries in zip(modules, attributes, registered, strict=True):
            vars(module).clear()
            vars(module).update(kept)
            for key, content in registries.items():
                registry = kept[key]
                registry.clear()
                registry.update(content)
        contents.put_back()
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                if not _same(tensor, value):
                    tensor.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def materialise(model: nn.Module, example: Any) -> None:
    """Give lazy layers their shapes by one pass in evaluation mode.

    The draws of their initialisation count; running statistics do not move.

    Args:
        model: changed in place where it has uninitialised parameters or buffers, else left alone.
        example: a batch, as for `run`.

    Raises:
        ConversionError: the model raises; some of its layers may have their shapes by then.
    """
    if not any(is_lazy(t) for t in (*model.parameters(), *model.buffers())):
        return
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            call(model, example)
    except Exception as problem:
        text = " ".join(str(problem).split())
        raise ConversionError(f"example: the model raised {type(problem).__name__}: {text}") from problem
    finally:
        for module, training in flags:
            module.training = training


def call(model: nn.Module, example: Any) -> Any:
    """`model(...)` with a copy of an example: a tuple or list gives the positional arguments, a dict the named ones."""
    example = own(example)
    if isinstance(example, dict):
        return model(**example)
    return model(*example) if isinstance(example, tuple | list) else model(example)


def own(example: Any) -> Any:
    """The example with tensors of its own, since a model may work in place on its input."""
    return tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, example)


def run(model: nn.Module, example: Any, *, training: bool = False) -> Any:
    """One forward pass without gradients, inside `restored`.

    Args:
        model: the model.
        example: a batch; a tuple or list gives the positional arguments, a dict the named ones.
        training: the mode to run in.

    Returns:
        The model's output.
    """
    with restored(model), torch.no_grad():
        model.train(training)
        return call(model, example)


def _is_registry(key: str, value: Any) -> bool:
    return isinstance(value, dict) and (key in ("_parameters", "_buffers", "_modules") or "_hooks" in key)


def _same(tensor: Tensor, value: Tensor) -> bool:
    # An untouched tensor is not written to: that would raise its version and upset a backward that is under way.
    return tensor.shape == value.shape and (tensor.is_meta or torch.equal(tensor, value))
