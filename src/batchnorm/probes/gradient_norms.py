"""Gradient norms of parameters and of layers."""

from dataclasses import dataclass

from torch import nn

from batchnorm.probes.evaluation import Loss, gradient, norm, trainable

__all__ = ["GradientNorms", "gradient_norms"]


@dataclass(frozen=True)
class GradientNorms:
    """Euclidean norms of the gradient of the loss.

    Args:
        loss: its value.
        parameters: name -> norm, in the order of registration.
        layers: path of a module -> norm over the parameters that it owns itself.
        total: norm over all of them.
    """

    loss: float
    parameters: dict[str, float]
    layers: dict[str, float]
    total: float


def gradient_norms(model: nn.Module, loss: Loss) -> GradientNorms:
    """The norms of the gradient of the loss, a parameter and a layer each.

    ||dL/dW||

    One forward and backward pass. Memory: one gradient.

    Args:
        model: runs in the modes its modules are in; put back as it was, also when the pass raises.
        loss: model -> tensor with one value.

    Returns:
        `GradientNorms`, added up in float64. Frozen parameters have no entry; one that the loss does not use has 0.

    Raises:
        ArgumentError: (ValueError) no parameter requires a gradient, a lazy layer has not seen an input, or the loss
            has not one value or no gradient.
        ArgumentTypeError: (TypeError) an argument is of another type.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from batchnorm import probes
        >>> model = nn.Sequential(nn.Linear(1, 1), nn.Flatten())
        >>> probes.gradient_norms(
        ...     model, lambda model: model(torch.tensor([[0.75]])).sum()
        ... )  # doctest: +ELLIPSIS
        GradientNorms(loss=..., parameters={'0.weight': 0.75, '0.bias': 1.0}, layers={'0': 1.25}, total=1.25)
    """
    parameters = trainable(model)
    value, parts = gradient(model, loss, list(parameters.values()))
    norms = {name: norm([part]) for name, part in zip(parameters, parts, strict=True)}
    layers: dict[str, list[str]] = {}
    for name in norms:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    gradients = dict(zip(parameters, parts, strict=True))
    return GradientNorms(
        value,
        norms,
        {path: norm([gradients[name] for name in names]) for path, names in layers.items()},
        norm(parts),
    )
