"""How the loss varies along its gradient."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from batchnorm.probes.evaluation import Loss, gradient, loss_at, norm, trainable
from batchnorm.probes.steps import checked_steps, column, spread, stepped

__all__ = ["LossAlongGradient", "loss_along_gradient"]


@dataclass(frozen=True, eq=False)
class LossAlongGradient:
    """The loss at theta - s * g; tensors are float64, on the CPU.

    Args:
        steps: (S,), s.
        distances: (S,), how far the parameters went, after rounding to their types.
        losses: (S,).
        loss: at theta.
        gradient_norm: ||g||.
    """

    steps: Tensor
    distances: Tensor
    losses: Tensor
    loss: float
    gradient_norm: float

    @property
    def loss_range(self) -> tuple[float, float]:
        """The least and the largest loss over the steps; NaN where one is."""
        return spread(self.losses)


def loss_along_gradient(model: nn.Module, loss: Loss, steps: Sequence[float] | Tensor) -> LossAlongGradient:
    """Evaluate the loss at points along its own gradient.

    L(theta - s * g),  g = grad L(theta)

    One forward and backward pass, and a forward pass a step. Memory: two further copies of the parameters, and the
    gradient. Every evaluation has the same random numbers and starts from the same running statistics.

    Args:
        model: runs in the modes its modules are in; put back as it was, also when a pass raises.
        loss: model -> tensor with one value, on the same batch each time.
        steps: (S,) step lengths s, in units of a learning rate; negative ones go uphill.

    Returns:
        A `LossAlongGradient`. A loss that overflows is recorded as it is.

    Raises:
        ArgumentError: (ValueError) steps are empty or not finite, no parameter requires a gradient, a lazy layer has
            not seen an input, or the loss has not one value or no gradient.
        ArgumentTypeError: (TypeError) an argument is of another type.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from batchnorm import probes
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(model.weight)
        >>> half_square = lambda model: model(torch.ones(1, 1)).square().sum() / 2
        >>> probes.loss_along_gradient(model, half_square, [0.0, 1.0, 3.0]).losses
        tensor([0.5000, 0.0000, 2.0000], dtype=torch.float64)

    Source: Santurkar et al. 2018, arXiv:1805.11604, section 3.1 and figure 4(a).
    """
    parameters = list(trainable(model).values())
    lengths = checked_steps(steps)
    start, direction = gradient(model, loss, parameters)
    distances, losses = [], []
    for step in lengths:
        with stepped(parameters, direction, step) as distance:
            losses.append(loss_at(model, loss))
        distances.append(distance)
    return LossAlongGradient(column(lengths), column(distances), column(losses), start, norm(direction))
