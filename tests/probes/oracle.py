"""Two losses that are known in closed form, and a gradient step on a copy, the long way round."""

import copy

import numpy as np
import torch
from torch import Tensor, nn


class Quadratic(nn.Module):
    """L(theta) = theta' A theta / 2 + b' theta, with theta spread over two parameters of different shapes."""

    def __init__(self, size: int = 6) -> None:
        super().__init__()
        generator = np.random.default_rng(0)
        root = generator.normal(size=(size, size))
        self.matrix = root + root.T  # indefinite
        self.offset, self.start = generator.normal(size=size), generator.normal(size=size)
        self.head = nn.Parameter(torch.from_numpy(self.start[:4].reshape(2, 2).copy()))
        self.tail = nn.Parameter(torch.from_numpy(self.start[4:].copy()))

    def forward(self) -> Tensor:
        theta = torch.cat([self.head.reshape(-1), self.tail])
        return theta @ torch.from_numpy(self.matrix) @ theta / 2 + torch.from_numpy(self.offset) @ theta

    def value(self, theta: np.ndarray) -> float:
        return theta @ self.matrix @ theta / 2 + self.offset @ theta

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        return self.matrix @ theta + self.offset


def call(model: nn.Module) -> Tensor:
    value: Tensor = model()
    return value


def gradients(model: nn.Module, loss) -> dict[str, np.ndarray]:
    """The gradient by backward, on a copy whose statistics and random numbers are its own."""
    copied = copy.deepcopy(model)
    with torch.random.fork_rng():
        loss(copied).backward()
    return {
        name: (torch.zeros_like(p) if p.grad is None else p.grad).double().numpy()
        for name, p in copied.named_parameters()
        if p.requires_grad
    }


def after_a_step(model: nn.Module, loss, lr: float, only=None) -> nn.Module:
    """A copy after a step of torch's SGD, for the parameters named in `only` or for all."""
    copied = copy.deepcopy(model)
    parameters = [
        p for name, p in copied.named_parameters() if p.requires_grad and (only is None or name in only)
    ]
    statistics = {name: buffer.clone() for name, buffer in copied.named_buffers()}
    with torch.random.fork_rng():
        loss(copied).backward()
    torch.optim.SGD(parameters or [torch.zeros(1, requires_grad=True)], lr=abs(lr), maximize=lr < 0).step()
    copied.zero_grad()
    for name, buffer in copied.named_buffers():
        buffer.copy_(statistics[name])
    return copied


def distance(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(((first[name] - second[name]) ** 2).sum() for name in first)))


def product(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> float:
    return float(sum((first[name] * second[name]).sum() for name in first))
