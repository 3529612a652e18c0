"""Small networks, and a record of everything about a model that a probe has to leave alone."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import batchnorm as bn


class Everything(nn.Module):
    """Norms of both kinds, dropout, work in place, a skip, and a frozen, a shared and an unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.ours = bn.BatchNorm1d(6)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.second = nn.Linear(6, 6)
        self.theirs = nn.BatchNorm1d(6, momentum=None)
        self.last = nn.Linear(6, 3)
        self.shared = self.last
        self.unused = nn.Linear(2, 2)
        self.second.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.relu(self.ours(self.first(x))))
        return self.last(x + torch.tanh(self.theirs(self.second(x))))


def everything(dtype: torch.dtype = torch.float64, seed: int = 0) -> Everything:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Everything().to(dtype)


def batch(dtype: torch.dtype = torch.float64, count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 4, dtype=dtype, generator=generator), torch.arange(count) % 3


def cross_entropy(model: nn.Module) -> Tensor:
    x, y = batch(next(model.parameters()).dtype)
    return nn.functional.cross_entropy(model(x), y)


class Kept:
    """What a model and the process looked like when this was made.

    Reading the gradients' values and not only their places tells a gradient that was added to from one that was not.

    Args:
        model: looked at again by `check`.
        versions: whether its parameters must not even have been written to.
    """

    def __init__(self, model: nn.Module, *, versions: bool = True) -> None:
        self.model, self.versions = model, versions
        self.kept = self._all(model)

    def check(self) -> None:
        now = self._all(self.model)
        for key, value in self.kept.items():
            assert now[key] == value, key
        assert now.keys() == self.kept.keys()

    def _all(self, model: nn.Module) -> dict[str, Any]:
        found: dict[str, Any] = {
            "torch's generator": torch.get_rng_state().tolist(),
            "Python's generator": random.getstate(),
            "numpy's generator": np.random.get_state()[1].tolist(),
            "gradients on": torch.is_grad_enabled(),
        }
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            grad = tensor.grad
            found[name] = (
                *(id(tensor), tensor.data_ptr(), tensor.stride(), tensor.requires_grad, tensor.is_leaf),
                *(_bits(tensor), id(grad), None if grad is None else _bits(grad)),
                tensor._version if self.versions and isinstance(tensor, nn.Parameter) else None,
            )
        for path, module in model.named_modules():
            found[f"{path}: attributes"] = {
                key: {k: id(v) for k, v in value.items()} if isinstance(value, dict) else id(value)
                for key, value in vars(module).items()
            }
        return found


def _bits(tensor: Tensor) -> bytes:
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()
