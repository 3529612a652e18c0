"""A multilayer perceptron."""

import math

from torch import Tensor, nn

from batchnorm.lab.models import options
from batchnorm.lab.models.network import Plan, Recipe

__all__ = ["MLP", "Perceptron"]


class Perceptron(nn.Module):
    """Hidden layers of linear, norm and activation, and a linear output; images are flattened.

    After the activation a layer is linear, activation, norm; before it, linear, norm, activation. Dropout follows each
    hidden layer.

    Args:
        plan: what to build; options `hidden` (widths) and `activation` (a name).

    Returns:
        From (N, C) or (N, C, H, W): logits (N, num_classes).

    Example:
        >>> import torch
        >>> from batchnorm.lab.arms import norm_layer
        >>> settings = {"hidden": (32, 32), "activation": "relu"}
        >>> plan = Plan((30,), 2, "before", 0.0, lambda c, d: norm_layer("batch", c, d), settings)
        >>> Perceptron(plan)(torch.randn(4, 30)).shape
        torch.Size([4, 2])

    Source:
        Ioffe & Szegedy 2015, section 4.1: three hidden layers of 100.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.hidden = nn.ModuleList()
        width = math.prod(plan.input_shape)
        for channels in plan.options["hidden"]:
            self.hidden.append(_hidden(width, channels, plan))
            width = channels
        self.output = nn.Linear(width, plan.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.flatten(x)
        for layer in self.hidden:
            x = layer(x)
        return self.output(x)


def _hidden(width: int, channels: int, plan: Plan) -> nn.Sequential:
    layer = nn.Sequential()
    layer.add_module("linear", nn.Linear(width, channels))
    act = options.ACTIVATIONS[plan.options["activation"]]()
    parts = {"norm": plan.norm(channels, 2), "activation": act}
    for name in ("norm", "activation") if plan.placement == "before" else ("activation", "norm"):
        layer.add_module(name, parts[name])
    layer.add_module("dropout", nn.Dropout(plan.dropout))
    return layer


MLP = Recipe(
    Perceptron,
    least=None,
    options={"hidden": ((100, 100, 100), options.widths), "activation": ("relu", options.activation)},
)
