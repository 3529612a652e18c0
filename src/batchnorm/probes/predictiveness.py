"""How long a gradient stays true along itself: gradient predictiveness and effective beta-smoothness."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from batchnorm.probes.evaluation import Loss, gradient, norm, trainable, wide
from batchnorm.probes.steps import checked_steps, column, spread, stepped

__all__ = ["GradientPredictiveness", "cosine", "difference", "gradient_predictiveness"]


@dataclass(frozen=True, eq=False)
class GradientPredictiveness:
    """Loss and gradient at theta - s * g; tensors are float64, on the CPU.

    Args:
        steps: (S,), s.
        distances: (S,), how far the parameters went, after rounding to their types.
        losses: (S,).
        changes: (S,), ||grad(theta - s g) - grad(theta)||.
        cosines: (S,), of the angle between the two gradients; NaN where one is 0.
        loss: at theta.
        gradient_norm: ||g||.
    """

    steps: Tensor
    distances: Tensor
    losses: Tensor
    changes: Tensor
    cosines: Tensor
    loss: float
    gradient_norm: float

    @property
    def loss_range(self) -> tuple[float, float]:
        """The least and the largest loss over the steps; NaN where one is."""
        return spread(self.losses)

    @property
    def change_range(self) -> tuple[float, float]:
        """The least and the largest change of the gradient over the steps; NaN where one is."""
        return spread(self.changes)

    @property
    def smoothness(self) -> Tensor:
        """(S,), changes / distances; NaN where nothing moved."""
        return self.changes / self.distances

    @property
    def effective_beta(self) -> float:
        """The largest change of the gradient for the distance gone; NaN where no step moved a parameter.

        max over s of ||grad(theta - s g) - grad(theta)|| / ||s g||
        """
        found = self.smoothness[self.distances > 0]
        return found.max().item() if found.numel() else torch.nan


def gradient_predictiveness(
    model: nn.Module, loss: Loss, steps: Sequence[float] | Tensor
) -> GradientPredictiveness:
    """Compare the gradient at points along itself with the one at the start; gives effective beta too.

    ||grad L(theta - s * g) - g||,  g = grad L(theta)

    One forward and backward pass, and one a step. Memory: two further copies of the parameters, and two gradients.
    Every evaluation has the same random numbers and starts from the same running statistics.

    Args:
        model: runs in the modes its modules are in; put back as it was, also when a pass raises.
        loss: model -> tensor with one value, on the same batch each time.
        steps: (S,) step lengths s, in units of a learning rate.

    Returns:
        A `GradientPredictiveness`, with the losses of `loss_along_gradient` too. Where a step is too short for the
        parameters' type, as 1e-9 is for float32, rounding moves less or nothing, and `distances` says so.

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
        >>> square = lambda model: 2 * model(torch.ones(1, 1)).square().sum()  # second derivative 4
        >>> found = probes.gradient_predictiveness(model, square, [0.25, 0.5])
        >>> found.changes, found.effective_beta
        (tensor([4., 8.], dtype=torch.float64), 4.0)

    Source: Santurkar et al. 2018, arXiv:1805.11604, section 3.1 and figure 4(b, c).
    """
    parameters = list(trainable(model).values())
    lengths = checked_steps(steps)
    start, first = gradient(model, loss, parameters)
    distances, losses, changes, cosines = [], [], [], []
    for step in lengths:
        with stepped(parameters, first, step) as distance:
            value, now = gradient(model, loss, parameters)
        distances.append(distance)
        losses.append(value)
        changes.append(difference(now, first))
        cosines.append(cosine(now, first))
    return GradientPredictiveness(
        column(lengths),
        column(distances),
        column(losses),
        column(changes),
        column(cosines),
        loss=start,
        gradient_norm=norm(first),
    )


def difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """||first - second||, in float64."""
    return norm([wide(a) - wide(b) for a, b in zip(first, second, strict=True)])


def cosine(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """The cosine of the angle between two gradients, in float64; NaN where one is 0."""
    lengths = norm(first), norm(second)
    if 0.0 in lengths:
        return torch.nan
    # Unit vectors first: the product of two large gradients may overflow where the cosine does not.
    parts = zip(first, second, strict=True)
    return sum(((wide(a) / lengths[0]) * (wide(b) / lengths[1])).sum().item() for a, b in parts)
