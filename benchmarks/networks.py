"""ResNet-18 and MobileNetV2, whose norms come from a factory: torch's layers, or ours fused with what follows.

He et al. 2015, arXiv:1512.03385, table 1; Sandler et al. 2018, arXiv:1801.04381, table 2. Parameters, their order and
their names do not depend on the factory. The dropout in front of MobileNetV2's classifier is left out, since it would
give the two networks that are compared different random numbers.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import batchnorm as bn
from batchnorm.bench.shapes import MOBILENET_V2

Factory = Callable[[int, str | None], nn.Module]
_IN_PLACE = {"relu": F.relu_, "relu6": lambda z: F.relu6(z, inplace=True)}


class TorchNorm(nn.Module):
    """torch's layer, then the addition and the activation in place, as torchvision writes them."""

    def __init__(self, features: int, act: str | None) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(features)
        self.act = act

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """act(norm(x) + residual)."""
        y = self.norm(x)
        if residual is not None:
            y += residual
        return y if self.act is None else _IN_PLACE[self.act](y)


class FusedNorm(nn.Module):
    """Our layer, which does all of it in one call."""

    def __init__(self, features: int, act: str | None) -> None:
        super().__init__()
        self.norm = bn.BatchNorm2d(features)
        self.act = act

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """act(norm(x) + residual)."""
        return self.norm(x, residual, act=self.act)


class ConvNorm(nn.Module):
    """A convolution without bias, then the norm."""

    def __init__(
        self,
        norm: Factory,
        sizes: tuple[int, int],
        kernel: int,
        stride: int = 1,
        act: str | None = None,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(*sizes, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = norm(sizes[1], act)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The residual is added behind the norm."""
        return self.norm(self.conv(x), residual)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, norm: Factory, before: int, features: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(norm, (before, features), 3, stride, "relu")
        self.second = ConvNorm(norm, (features, features), 3, act="relu")
        same = stride == 1 and before == features
        self.shortcut = None if same else ConvNorm(norm, (before, features), 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """relu(F(x) + shortcut(x))."""
        return self.second(self.first(x), x if self.shortcut is None else self.shortcut(x))


class ResNet18(nn.Module):
    """18 layers with weights; 11,689,512 parameters for 1000 classes."""

    def __init__(self, norm: Factory, classes: int = 1000) -> None:
        super().__init__()
        self.stem = ConvNorm(norm, (3, 64), 7, 2, "relu")
        blocks, before = [], 64
        for stage in range(4):
            features = 64 * 2**stage
            for block in range(2):
                blocks.append(BasicBlock(norm, before, features, 2 if stage and not block else 1))
                before = features
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        x = self.blocks(F.max_pool2d(self.stem(x), 3, 2, 1))
        return self.classifier(x.mean((2, 3)))


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project without an activation; the input is added where it fits."""

    def __init__(self, norm: Factory, before: int, features: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = before * expansion
        self.expand = ConvNorm(norm, (before, hidden), 1, act="relu6") if expansion > 1 else None
        self.filter = ConvNorm(norm, (hidden, hidden), 3, stride, "relu6", groups=hidden)
        self.project = ConvNorm(norm, (hidden, features), 1)
        self.adds = stride == 1 and before == features

    def forward(self, x: Tensor) -> Tensor:
        """project(filter(expand(x))) + x."""
        hidden = x if self.expand is None else self.expand(x)
        return self.project(self.filter(hidden), x if self.adds else None)


class MobileNetV2(nn.Module):
    """Width 1.0; 3,504,872 parameters for 1000 classes."""

    def __init__(self, norm: Factory, classes: int = 1000) -> None:
        super().__init__()
        self.stem = ConvNorm(norm, (3, 32), 3, 2, "relu6")
        blocks, before = [], 32
        for expansion, features, count, stride in MOBILENET_V2:
            for block in range(count):
                blocks.append(InvertedResidual(norm, before, features, 1 if block else stride, expansion))
                before = features
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(norm, (before, 1280), 1, act="relu6")
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        return self.classifier(self.head(self.blocks(self.stem(x))).mean((2, 3)))


NETWORKS = {"ResNet-18": ResNet18, "MobileNetV2": MobileNetV2}


def pair(name: str, classes: int = 1000) -> tuple[nn.Module, nn.Module]:
    """The network with torch's layers and with ours, from the same weights."""
    torch.manual_seed(0)
    theirs, ours = (NETWORKS[name](norm, classes) for norm in (TorchNorm, FusedNorm))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours
