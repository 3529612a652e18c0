"""A small residual network."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from batchnorm.lab.models import options
from batchnorm.lab.models.network import Plan, Recipe

__all__ = ["RESNET", "Block", "Residual"]


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut without weights.

    Before the activation: conv, norm, relu, conv, norm, add, relu. After it: conv, relu, norm, conv, add, relu, norm.

    Args:
        channels: channels that come in.
        out: channels that go out; where they differ the block halves height and width.
        plan: what to build.

    Returns:
        From (N, channels, H, W): (N, out, H', W').

    Source:
        He et al. 2016, section 4.2, shortcut option A (every second pixel, new channels zero).
    """

    def __init__(self, channels: int, out: int, plan: Plan) -> None:
        super().__init__()
        self.norm_first = plan.placement == "before"
        self.stride = 1 if channels == out else 2
        self.added = out - channels
        self.conv1 = nn.Conv2d(channels, out, 3, stride=self.stride, padding=1)
        self.norm1 = plan.norm(out, 4)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.norm2 = plan.norm(out, 4)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.added:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.added))
        if self.norm_first:
            x = self.relu(self.norm1(self.conv1(x)))
            return self.relu(self.norm2(self.conv2(x)) + shortcut)
        x = self.norm1(self.relu(self.conv1(x)))
        return self.norm2(self.relu(self.conv2(x) + shortcut))


class Residual(nn.Module):
    """A convolution with norm, three stages of blocks, the mean over the image, and a linear output.

    Dropout stands before the linear layer.

    Args:
        plan: what to build; options `depth` (6n + 2), `width` (channels of the first stage) and `stride` (of the first
            convolution).

    Returns:
        From (N, C, H, W): logits (N, num_classes).

    Example:
        >>> import torch
        >>> from batchnorm.lab.arms import norm_layer
        >>> settings = {"depth": 8, "width": 4, "stride": 2}
        >>> plan = Plan((1, 28, 28), 10, "before", 0.0, lambda c, d: norm_layer("batch", c, d), settings)
        >>> Residual(plan)(torch.randn(4, 1, 28, 28)).shape
        torch.Size([4, 10])

    Source:
        He et al. 2016, section 4.2, with fewer channels and a first convolution of stride 2.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        width = plan.options["width"]
        self.norm_first = plan.placement == "before"
        self.conv = nn.Conv2d(plan.input_shape[0], width, 3, stride=plan.options["stride"], padding=1)
        self.norm = plan.norm(width, 4)
        self.relu = nn.ReLU()
        self.blocks = nn.Sequential()
        channels = width
        for stage, out in enumerate((width, 2 * width, 4 * width), 1):
            for place in range(1, (plan.options["depth"] - 2) // 6 + 1):
                self.blocks.add_module(f"block{stage}_{place}", Block(channels, out, plan))
                channels = out
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(plan.dropout),
            nn.Linear(channels, plan.num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.relu(self.norm(x)) if self.norm_first else self.norm(self.relu(x))
        return self.head(self.blocks(x))


def _least(settings: Mapping[str, Any]) -> int:
    # The halvings must leave more than one pixel, of which a norm over the image can say nothing.
    return 4 * int(settings["stride"]) + 1


RESNET = Recipe(
    Residual,
    least=_least,
    options={
        "depth": (8, options.depth),
        "width": (8, options.whole),
        # It quarters the cost of every stage: digits train in seconds on one core.
        "stride": (2, options.stride),
    },
)
