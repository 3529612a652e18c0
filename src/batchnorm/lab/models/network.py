"""What a built network is, and the shape of the recipes for those built in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

__all__ = ["Network", "NormMaker", "Plan", "Recipe"]

NormMaker = Callable[..., nn.Module]
"""(channels, dimensions of the input, and of a recurrent network the time steps) -> the layer for a site."""


@dataclass(frozen=True)
class Network:
    """A network with its norm layers in place.

    Args:
        module: the network.
        sites: paths of the norm layers in it; where the arm is "none" an `nn.Identity` stands there.
        placement: "before" or "after" the activation, "own" where the model came with batch norms, None for the
            arm "none".
    """

    module: nn.Module
    sites: tuple[str, ...]
    placement: str | None


@dataclass(frozen=True)
class Plan:
    """What a recipe needs to know.

    Args:
        input_shape: shape of a sample, (C, H, W) or (C,).
        num_classes: length of the output.
        placement: "before" or "after" the activation.
        dropout: probability of a zero before fully connected layers.
        norm: makes the layer for a site.
        options: the recipe's own settings, read and complete.
    """

    input_shape: tuple[int, ...]
    num_classes: int
    placement: str
    dropout: float
    norm: NormMaker
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A built-in network.

    Args:
        make: builds it.
        least: least height and width of its images with these options; None where it takes data of any shape.
        options: name -> (default, reader of a value given as text or as what it stands for).
        recurrent: whether its norms see one time step a call; they have places of their own.
    """

    make: Callable[[Plan], nn.Module]
    least: Callable[[Mapping[str, Any]], int] | None
    options: Mapping[str, tuple[Any, Callable[[Any], Any]]] = field(default_factory=dict)
    recurrent: bool = False
