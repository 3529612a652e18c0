"""The example networks of the walkthrough that the golden values come from."""

from torch import nn

from batchnorm.errors import UsageError
from batchnorm.lab.models.network import NormMaker
from batchnorm.lab.models.norms import maker

__all__ = ["EXAMPLES", "walkthrough"]

EXAMPLES = ("ex1", "ex2", "flattened")


def walkthrough(
    example: str,
    norm: str | NormMaker = "batch",
    *,
    input_shape: tuple[int, int, int] = (3, 28, 28),
    num_classes: int | None = None,
) -> nn.Sequential:
    """One of the walkthrough's networks, with a norm of choice in the place of its batch norms.

    ex1: conv 16, average pool, norm.
    ex2: conv 16, average pool, norm, conv 8, average pool, norm, relu.
    flattened: conv 16, norm, flatten, relu, linear 24, norm (of rows), relu.

    Args:
        example: "ex1", "ex2" or "flattened".
        norm: an arm, or a maker of norm layers. Default "batch".
        input_shape: (C, H, W). Default (3, 28, 28), as printed.
        num_classes: adds `flatten` and `output`, so that the network can be trained. Default None, as printed.

    Returns:
        From (N, C, H, W): as printed for (3, 28, 28), (N, 16, 14, 14), (N, 8, 7, 7) and (N, 24); with an output
        logits (N, num_classes).

    Raises:
        UsageError: (ValueError) an unknown example.

    Example:
        >>> import torch
        >>> walkthrough("ex2")(torch.rand(100, 3, 28, 28)).shape
        torch.Size([100, 8, 7, 7])

    Source:
        "A walkthrough for batch normalization", April 2023, cells 83 to 90.
    """
    if example not in EXAMPLES:
        raise UsageError(f"example: expected one of {', '.join(EXAMPLES)}, got {example!r}")
    make = maker(norm)
    channels, height, width = input_shape
    net = nn.Sequential()
    net.add_module("conv1", nn.Conv2d(channels, 16, 3, padding=1))
    if example == "flattened":
        net.add_module("norm1", make(16, 4))
        net.add_module("flatten1", nn.Flatten())
        net.add_module("relu1", nn.ReLU())
        net.add_module("linear", nn.Linear(16 * height * width, 24))
        net.add_module("norm2", make(24, 2))
        net.add_module("relu2", nn.ReLU())
        features = 24
    else:
        net.add_module("pool1", nn.AvgPool2d(2, 2))
        net.add_module("norm1", make(16, 4))
        features = 16 * (height // 2) * (width // 2)
    if example == "ex2":
        net.add_module("conv2", nn.Conv2d(16, 8, 3, padding=1))
        net.add_module("pool2", nn.AvgPool2d(2, 2))
        net.add_module("norm2", make(8, 4))
        net.add_module("relu", nn.ReLU())
        features = 8 * (height // 2 // 2) * (width // 2 // 2)
    if num_classes is not None:
        net.add_module("flatten", nn.Flatten())
        net.add_module("output", nn.Linear(features, num_classes))
    return net
