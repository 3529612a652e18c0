"""Everything that a training run is in the middle of, as one object that is safe to store, and back."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["capture", "generators", "restore", "set_generators"]

State = dict[str, Any]
_PLAIN = (int, float, bool, str, type(None))


def capture(module: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """The numbers of a model and its optimizer: parameters, all buffers, plain attributes, moments.

    A buffer that its layer does not save and a number or tensor that a module holds as an attribute count as well: a
    network that counts its own steps goes on counting. What lies in lists, closures or globals does not.

    Args:
        module: the network, not wrapped.
        optimizer: that of its parameters, not wrapped.

    Returns:
        Tensors and plain values only, to be written before the next step changes them in place.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> sorted(capture(layer, torch.optim.SGD(layer.parameters(), lr=0.1)))
        ['attributes', 'buffers', 'model', 'optimizer']
    """
    return {
        "model": module.state_dict(),
        "buffers": dict(module.named_buffers()),
        "attributes": {path: _attributes(part) for path, part in module.named_modules()},
        "optimizer": optimizer.state_dict(),
    }


def restore(state: State, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put what `capture` gave into a newly built network and optimizer of the same kind.

    Raises:
        ValueError, RuntimeError, KeyError: they are of another kind; they are then to be thrown away.
    """
    module.load_state_dict(state["model"])
    buffers = dict(module.named_buffers())
    parts = dict(module.named_modules())
    if buffers.keys() != state["buffers"].keys() or parts.keys() != state["attributes"].keys():
        raise ValueError("the network has other buffers or modules")
    for name, value in state["buffers"].items():
        buffers[name].copy_(value)
    for path, values in state["attributes"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                now = vars(parts[path]).get(name)
                value = value.to(now.device) if isinstance(now, Tensor) else value
            parts[path].__dict__[name] = value
    optimizer.load_state_dict(state["optimizer"])


def _attributes(module: nn.Module) -> dict[str, Any]:
    kept = {}
    for name, value in vars(module).items():
        if type(value) in _PLAIN:
            kept[name] = value
        elif type(value) is Tensor:
            kept[name] = value.detach()
    return kept


def generators(device: str) -> State:
    """The states of all generators that a run may draw from: Python's, numpy's, torch's and the accelerators'."""
    kind, words, *rest = np.random.get_state()
    states: State = {
        "python": random.getstate(),
        "numpy": (str(kind), torch.from_numpy(np.asarray(words).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if device == "cuda":
        states["cuda"] = torch.cuda.get_rng_state_all()
    elif device == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_generators(states: State) -> None:
    """Put back what `generators` gave."""
    random.setstate(states["python"])
    kind, words, *rest = states["numpy"]
    np.random.set_state((kind, words.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
    if "mps" in states:
        torch.mps.set_rng_state(states["mps"])
