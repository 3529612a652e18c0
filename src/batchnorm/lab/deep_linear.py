"""Full-batch gradient descent on the deep linear network, in float64: what two experiments look at on its way."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from batchnorm.lab.models import deep_linear

__all__ = ["Loss", "descend", "problem"]

SAMPLES, WIDTH = 1000, 10
Loss = Callable[[nn.Module], Tensor]


def problem(seed: int, spread: float) -> Loss:
    """The loss of fitting a random linear map on Gaussian inputs, summed over samples and outputs.

    L = sum_n ||net(x_n) - A x_n||^2,  x ~ N(0, 1),  A ~ N(0, spread^2)

    Args:
        seed: of the inputs and of A.
        spread: standard deviation of the entries of A.

    Returns:
        From a network, (N, 10) -> (N, 10) in float64, to a tensor with one value.

    Example:
        >>> loss = problem(0, 1.0)
        >>> loss(nn.Linear(10, 10, bias=False).double()).shape
        torch.Size([])
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SAMPLES, WIDTH, generator=generator, dtype=torch.float64)
    target = spread * torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    y = x @ target.T
    return lambda net: (net(x) - y).square().sum()


def descend(
    norm: str,
    loss: Loss,
    *,
    lr: float,
    steps: int,
    seed: int,
    look_at: set[int],
    look: Callable[[int, nn.Module], None],
) -> float:
    """Train the 25 layers by full-batch gradient descent; ends early at a loss that is not finite.

    Args:
        norm: an arm; all arms of a seed start from the same matrices.
        loss: as `problem` gives it.
        lr: learning rate.
        steps: how many.
        seed: of the matrices.
        look_at: steps, counted from 0, before which `look` is called; `steps` itself is after the last.
        look: called with the step and the network, in training mode.

    Returns:
        The last loss.

    Example:
        >>> seen = []
        >>> settings = {"lr": 1e-6, "steps": 2, "seed": 0, "look_at": {0, 2}}
        >>> last = descend("none", problem(0, 0.3), look=lambda step, net: seen.append(step), **settings)
        >>> seen
        [0, 2]
    """
    torch.manual_seed(seed)
    net = deep_linear(norm, width=WIDTH).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for step in range(steps + 1):
        if step in look_at:
            look(step, net)
        optimizer.zero_grad()
        value = loss(net)
        if step == steps or not math.isfinite(value.item()):
            break
        value.backward()
        optimizer.step()
    return value.item()
