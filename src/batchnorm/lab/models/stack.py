"""Deep plain stacks, whose signals and gradients are followed through the layers."""

import math

from torch import nn

from batchnorm.errors import UsageError
from batchnorm.lab.models.network import NormMaker
from batchnorm.lab.models.norms import maker

__all__ = ["deep_linear", "stack"]

# By how much E[x^2] of a Gaussian input exceeds that of the output, which the weights make up for (He et al. 2015).
_GAINS = {"relu": 2.0, "linear": 1.0}


def stack(
    depth: int, width: int, norm: str | NormMaker = "batch", *, activation: str = "relu"
) -> nn.Sequential:
    """Layers of linear, norm and activation, all of one width, without biases and without an output.

    W ~ N(0, gain / width), gain 2 for relu and 1 for linear: without norm the second moment of a Gaussian input stays
    what it was, in the mean over W.

    Args:
        depth: number of layers.
        width: features of the input and of every layer.
        norm: an arm, or a maker of norm layers. Default "batch".
        activation: "relu" or "linear". Default "relu".

    Returns:
        From (N, width): (N, width). Layer n is `net[n]`, with children `linear`, `norm` and, for relu, `activation`.

    Raises:
        UsageError: (ValueError) an unknown activation.

    Example:
        >>> import torch
        >>> stack(50, 32)(torch.randn(64, 32)).shape
        torch.Size([64, 32])

    Source:
        Yang et al. 2019, arXiv:1902.08129 (relu: gradient explosion); Daneshmand et al. 2020, arXiv:2003.01652 (linear:
        rank of the hidden representation).
    """
    if activation not in _GAINS:
        raise UsageError(f"activation: expected one of {', '.join(_GAINS)}, got {activation!r}")
    make = maker(norm)
    layers = nn.Sequential()
    for number in range(depth):
        linear = nn.Linear(width, width, bias=False)
        nn.init.normal_(linear.weight, std=math.sqrt(_GAINS[activation] / width))
        layer = nn.Sequential()
        layer.add_module("linear", linear)
        layer.add_module("norm", make(width, 2))
        if activation == "relu":
            layer.add_module("activation", nn.ReLU())
        layers.add_module(str(number), layer)
    return layers


def deep_linear(norm: str | NormMaker = "none", *, layers: int = 25, width: int = 10) -> nn.Sequential:
    """A product of square matrices without biases, with a norm behind each but the last.

    Behind the last a norm would fix the scale of what is to be fitted. Glorot's initialisation: uniform, of variance
    2 / (width + width).

    Args:
        norm: an arm, or a maker of norm layers. Default "none".
        layers: number of matrices. Default 25.
        width: rows and columns. Default 10.

    Returns:
        From (N, width): (N, width). `net.linear1` to `net.linear25`; `net.norm1` to `net.norm24`.

    Example:
        >>> import torch
        >>> sum(p.numel() for p in deep_linear().parameters())
        2500

    Source:
        Santurkar et al. 2018, arXiv:1805.11604, section 3 (deep linear networks); Glorot & Bengio 2010, equation 16.
    """
    make = maker(norm)
    net = nn.Sequential()
    for number in range(1, layers + 1):
        linear = nn.Linear(width, width, bias=False)
        nn.init.xavier_uniform_(linear.weight)
        net.add_module(f"linear{number}", linear)
        if number < layers:
            net.add_module(f"norm{number}", make(width, 2))
    return net
