"""Residual networks of any depth, whose skip path nothing but the joins touches."""

import math

from torch import Tensor, nn

from batchnorm.lab.models.joins import join
from batchnorm.lab.models.network import NormMaker
from batchnorm.lab.models.norms import maker

__all__ = ["Branched", "residual_net", "residual_stack"]


class Branched(nn.Module):
    """One residual block: y = join(skip(x), branch(x)).

    Args:
        branch: F.
        join: a module of skip and branch.
        skip: what stands on the skip path; default nothing.
    """

    def __init__(self, branch: nn.Module, join: nn.Module, skip: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.join = branch, join
        self.skip = nn.Identity() if skip is None else skip

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.join(self.skip(x), self.branch(x))
        return y


def residual_stack(
    blocks: int,
    norm: str | NormMaker = "batch",
    *,
    width: int = 512,
    kind: str = "plain",
    alpha: float = 0.0,
    inputs: int | None = None,
    num_classes: int | None = None,
) -> nn.Sequential:
    """Fully connected residual blocks, F(x) = W relu(norm(x)) with W ~ N(0, 2 / width) and no bias.

    Of a Gaussian input of second moment 1, behind block l: 2^l without norm and with "plain", l + 1 with batch norm,
    1 with "rescale" without norm.

    Args:
        blocks: how many.
        norm: an arm, or a maker of norm layers. Default "batch".
        width: features of x. Default 512.
        kind: of join; see `joins.join`. Default "plain".
        alpha: where that of "skipinit" starts. Default 0.
        inputs: puts a linear layer `stem` in front, from so many features; images are flattened. Default None.
        num_classes: puts norm, relu and a linear layer behind, as `head`. Default None.

    Returns:
        From (N, width) or (N, inputs): (N, width) or (N, num_classes). Block l is `net.blocks[l - 1]`, whose output is
        the skip path.

    Raises:
        UsageError: (ValueError) an unknown kind of join.

    Example:
        >>> import torch
        >>> residual_stack(64)(torch.randn(256, 512)).shape
        torch.Size([256, 512])

    Source:
        De & Smith 2020, arXiv:2002.10444, section 3.
    """
    make = maker(norm)
    net = nn.Sequential()
    if inputs is not None:
        net.add_module("stem", nn.Sequential(nn.Flatten(), nn.Linear(inputs, width)))
    body = nn.Sequential()
    for number in range(1, blocks + 1):
        branch = nn.Sequential()
        branch.add_module("norm", make(width, 2))
        branch.add_module("relu", nn.ReLU())
        linear = nn.Linear(width, width, bias=False)
        nn.init.normal_(linear.weight, std=math.sqrt(2 / width))
        branch.add_module("linear", linear)
        body.add_module(str(number - 1), Branched(branch, join(kind, number, blocks, alpha)))
    net.add_module("blocks", body)
    if num_classes is not None:
        net.add_module("head", nn.Sequential(make(width, 2), nn.ReLU(), nn.Linear(width, num_classes)))
    return net


def residual_net(
    blocks: int,
    norm: str | NormMaker = "batch",
    *,
    kind: str = "plain",
    alpha: float = 0.0,
    widths: tuple[int, ...] = (16,),
    input_shape: tuple[int, int, int] = (1, 8, 8),
    num_classes: int = 10,
    stride: int = 1,
) -> nn.Sequential:
    """A convolutional residual network with norm and relu on the branch: norm, relu, conv, norm, relu, conv.

    Convolutions are 3x3 with He's initialisation, so that without norms a branch has the second moment of the skip path
    (up to the padding). Biases start at 0.

    Args:
        blocks: how many, spread evenly over the stages; first stages take what is left over.
        norm: an arm, or a maker of norm layers. Default "batch".
        kind: of join; see `joins.join`. Default "plain".
        alpha: where that of "skipinit" starts. Default 0.
        widths: channels of each stage. From the second on a stage begins with half the height and width, by a 1x1
            convolution of stride 2 on the skip path. Default (16,).
        input_shape: (C, H, W). Default (1, 8, 8).
        num_classes: logits. Default 10.
        stride: of the first convolution; 4 brings 32x32 to 8x8. Default 1.

    Returns:
        From (N, C, H, W): logits (N, num_classes). Children `stem`, `blocks` and `head`.

    Raises:
        UsageError: (ValueError) an unknown kind of join.

    Example:
        >>> import torch
        >>> residual_net(4, "none", kind="skipinit")(torch.randn(4, 1, 8, 8)).shape
        torch.Size([4, 10])

    Source:
        De & Smith 2020, arXiv:2002.10444, section 4, on the networks of He et al. 2016, arXiv:1603.05027.
    """
    make = maker(norm)
    channels = widths[0]
    net = nn.Sequential()
    net.add_module("stem", _conv(input_shape[0], channels, stride))
    body = nn.Sequential()
    for number in range(1, blocks + 1):
        out = widths[(number - 1) * len(widths) // blocks]
        halves = 1 if out == channels else 2
        branch = nn.Sequential(
            make(channels, 4),
            nn.ReLU(),
            _conv(channels, out, halves),
            make(out, 4),
            nn.ReLU(),
            _conv(out, out),
        )
        skip = None if out == channels else _shortcut(channels, out)
        body.add_module(str(number - 1), Branched(branch, join(kind, number, blocks, alpha), skip))
        channels = out
    net.add_module("blocks", body)
    head = nn.Sequential(make(channels, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head.append(nn.Linear(channels, num_classes))
    net.add_module("head", head)
    return net


def _conv(channels: int, out: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels, out, 3, stride=stride, padding=1)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _shortcut(channels: int, out: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, out, 1, stride=2, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
    return conv
