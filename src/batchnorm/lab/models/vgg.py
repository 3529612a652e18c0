"""A small plain network in the manner of VGG."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from batchnorm.lab.models import options
from batchnorm.lab.models.network import Plan, Recipe

__all__ = ["VGG", "Plain"]


class Plain(nn.Module):
    """Stages of 3x3 convolutions and a pooling, then one hidden fully connected layer and the output.

    After the activation a convolution is followed by relu, norm; before it, by norm, relu. Dropout stands before both
    fully connected layers.

    Args:
        plan: what to build; options `widths` (channels of each stage), `convs` (convolutions of a stage) and `hidden`
            (width of the fully connected layer).

    Returns:
        From (N, C, H, W): logits (N, num_classes).

    Example:
        >>> import torch
        >>> from batchnorm.lab.arms import norm_layer
        >>> settings = {"widths": (8, 16), "convs": 2, "hidden": 32}
        >>> plan = Plan((1, 28, 28), 10, "before", 0.0, lambda c, d: norm_layer("batch", c, d), settings)
        >>> Plain(plan)(torch.randn(4, 1, 28, 28)).shape
        torch.Size([4, 10])

    Source:
        Simonyan & Zisserman 2015, configuration B, with fewer stages and channels.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        channels, height, width = plan.input_shape
        self.features = nn.Sequential()
        for stage, out in enumerate(plan.options["widths"], 1):
            for place in range(1, plan.options["convs"] + 1):
                self.features.add_module(f"conv{stage}_{place}", nn.Conv2d(channels, out, 3, padding=1))
                norm = (f"norm{stage}_{place}", plan.norm(out, 4))
                relu = (f"relu{stage}_{place}", nn.ReLU())
                for name, layer in (norm, relu) if plan.placement == "before" else (relu, norm):
                    self.features.add_module(name, layer)
                channels = out
            self.features.add_module(f"pool{stage}", nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        hidden = plan.options["hidden"]
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(plan.dropout),
            nn.Linear(channels * height * width, hidden),
            nn.ReLU(),
            nn.Dropout(plan.dropout),
            nn.Linear(hidden, plan.num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def _least(settings: Mapping[str, Any]) -> int:
    return 2 ** len(settings["widths"])


VGG = Recipe(
    Plain,
    least=_least,
    options={
        "widths": ((8, 16, 32), options.widths),
        "convs": (2, options.whole),
        "hidden": (64, options.whole),
    },
)
