"""Fully connected networks of the claims: the sigmoid net and the net on the ball."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from batchnorm.errors import UsageError
from batchnorm.lab.models.mlp import Perceptron
from batchnorm.lab.models.network import NormMaker, Plan
from batchnorm.lab.models.norms import maker, plain_batch_norm

__all__ = ["INITS", "ball_net", "sigmoid_net"]

INITS = ("normal", "kaiming")


def sigmoid_net(
    norm: str | NormMaker = "none",
    *,
    inputs: int = 64,
    num_classes: int = 10,
    width: int = 100,
    hidden: int = 3,
    std: float = 0.1,
) -> Perceptron:
    """Hidden layers of sigmoids with weights of N(0, std^2) and biases 0; norm before the activation.

    Args:
        norm: an arm, or a maker of norm layers. Default "none".
        inputs: features of a sample. Default 64, the digits as 8x8.
        num_classes: logits. Default 10.
        width: of a hidden layer. Default 100.
        hidden: number of hidden layers. Default 3.
        std: standard deviation of the weights, the output's too. Default 0.1.

    Returns:
        From (N, inputs) or images: logits (N, num_classes). Hidden layer n is `net.hidden[n]`, with children
        `linear`, `norm`, `activation`.

    Example:
        >>> import torch
        >>> sigmoid_net("batch")(torch.randn(60, 1, 8, 8)).shape
        torch.Size([60, 10])

    Source:
        Ioffe & Szegedy 2015, arXiv:1502.03167, section 4.1.
    """
    settings = {"hidden": (width,) * hidden, "activation": "sigmoid"}
    net = Perceptron(Plan((inputs,), num_classes, "before", 0.0, maker(norm), settings))
    _draw(net, lambda weight: nn.init.normal_(weight, std=std))
    return net


def ball_net(
    norm: str | NormMaker = "none",
    *,
    init: str = "normal",
    inputs: int = 10,
    width: int = 100,
    hidden: int = 5,
    std: float = 0.1,
) -> Perceptron:
    """Hidden layers of ReLUs for points of a ball, norm behind the activation, and one logit.

    Args:
        norm: an arm, or a maker of norm layers; "batch" is batch norm without weight and bias. Default "none".
        init: "normal", weights of N(0, std^2), or "kaiming", uniform for ReLU; biases are 0. Default "normal".
        inputs: dimensions of the ball. Default 10.
        width: of a hidden layer. Default 100.
        hidden: number of hidden layers. Default 5.
        std: standard deviation for "normal". Default 0.1.

    Returns:
        From (N, inputs): a logit (N, 1). Hidden layer n is `net.hidden[n]`, with children
        `linear`, `activation`, `norm`.

    Raises:
        UsageError: (ValueError) an unknown init.

    Example:
        >>> import torch
        >>> ball_net("batch", init="kaiming")(torch.randn(1000, 10)).shape
        torch.Size([1000, 1])

    Source:
        Godoy, "Deep Learning with PyTorch Step-by-Step", chapter Extra, figure init_vs_bn.
    """
    if init not in INITS:
        raise UsageError(f"init: expected one of {', '.join(INITS)}, got {init!r}")
    make = plain_batch_norm if norm == "batch" else maker(norm)
    settings = {"hidden": (width,) * hidden, "activation": "relu"}
    net = Perceptron(Plan((inputs,), 1, "after", 0.0, make, settings))
    if init == "normal":
        _draw(net, lambda weight: nn.init.normal_(weight, std=std))
    else:
        _draw(net, lambda weight: nn.init.kaiming_uniform_(weight, nonlinearity="relu"))
    return net


def _draw(net: nn.Module, weights: Callable[[Tensor], Any]) -> None:
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            weights(layer.weight)
            nn.init.zeros_(layer.bias)
