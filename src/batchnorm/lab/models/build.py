"""Build a network by name or target, with an arm's norm layers at its sites."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.errors import ModelError, UsageError
from batchnorm.lab import arms
from batchnorm.lab.models import own
from batchnorm.lab.models.lenet import LENET
from batchnorm.lab.models.lstm import LSTM
from batchnorm.lab.models.mlp import MLP
from batchnorm.lab.models.network import Network, NormMaker, Plan, Recipe
from batchnorm.lab.models.norms import maker
from batchnorm.lab.models.options import read
from batchnorm.lab.models.resnet import RESNET
from batchnorm.lab.models.vgg import VGG
from batchnorm.lab.targets import describe, is_target
from batchnorm.surgery.restored import run

__all__ = ["KNOWN", "brings_its_own_norms", "build", "construct"]

RECIPES: dict[str, Recipe] = {"lenet": LENET, "mlp": MLP, "vgg": VGG, "resnet": RESNET, "lstm": LSTM}
KNOWN: tuple[str, ...] = tuple(RECIPES)
PLACEMENTS = ("before", "after")


def build(
    model: str,
    arm: str,
    placement: str,
    *,
    input_shape: Sequence[int],
    num_classes: int,
    dropout: float = 0.0,
    example: Tensor,
    **options: Any,
) -> Network:
    """Build a network whose weights outside the norm layers depend on torch's random state alone, not on the arm.

    Args:
        model: a name in `KNOWN`, or a target `file.py:factory` that returns an `nn.Module`.
        arm: a name in `arms.KNOWN`.
        placement: "before" or "after" the activation; not used where the user's model has batch norms of its own.
        input_shape: shape of a sample, (C, H, W) or (C,).
        num_classes: number of classes, the length of the output.
        dropout: probability of a zero before fully connected layers, in [0, 1). Default 0.
        example: a few samples, (N, *input_shape); passed through the network to check it, which leaves no trace in it.
        options: the model's settings, as text or as what they stand for; for a user's factory, its arguments.

    Returns:
        The network and its sites.

    Raises:
        ModelError: the model is unknown, cannot be built, or does not fit the data.
        UsageError: an unknown arm, placement or setting.

    Example:
        >>> import torch
        >>> images = torch.zeros(2, 1, 28, 28)
        >>> build("lenet", "batch", "after", input_shape=(1, 28, 28), num_classes=10, example=images).sites
        ('norm1', 'norm2')
    """
    if arm not in arms.KNOWN:
        raise UsageError(f"norms: unknown arm {arm!r}; known: {', '.join(arms.KNOWN)}")
    if arm == "recurrent" and not (model in RECIPES and RECIPES[model].recurrent):
        raise UsageError(
            "norms: 'recurrent' has statistics of each time step and needs a network that steps: --model lstm"
        )
    _check_placement(placement)
    shape = tuple(input_shape)
    if is_target(model):
        network = own.build(model, arm, placement, shape, num_classes, dropout, example[:2], options)
    else:
        made: list[nn.Module] = []

        def norm(channels: int, ndim: int, steps: int | None = None) -> nn.Module:
            made.append(arms.norm_layer(arm, channels, ndim, steps))
            return made[-1]

        module = _built_in(model, norm, placement, shape, num_classes, dropout, options)
        paths = {id(part): path for path, part in module.named_modules()}
        place = "own" if RECIPES[model].recurrent else placement
        sites = tuple(paths[id(layer)] for layer in made)
        network = Network(module, sites, None if arm == "none" else place)
    _check_output(model, network.module, example[:2], num_classes)
    return network


def construct(
    model: str,
    norm: str | NormMaker = "batch",
    placement: str = "before",
    *,
    input_shape: Sequence[int],
    num_classes: int,
    dropout: float = 0.0,
    **options: Any,
) -> nn.Module:
    """Build one of the networks in `KNOWN` for an experiment, with an arm or layers of one's own making.

    Args:
        model: a name in `KNOWN`.
        norm: an arm, or (channels, dimensions of the input, time steps) -> a layer, such as `noisy()`. Default "batch".
        placement: "before" or "after" the activation. Default "before".
        input_shape: shape of a sample.
        num_classes: logits.
        dropout: as for `build`.
        options: the model's settings.

    Returns:
        The network. That it runs is not tried, as `build` does.

    Raises:
        ModelError: as for `build`.
        UsageError: as for `build`.

    Example:
        >>> from batchnorm.lab.models import noisy
        >>> net = construct("vgg", noisy(), input_shape=(1, 8, 8), num_classes=10, convs=4)
        >>> sum(isinstance(layer, nn.Conv2d) for layer in net.modules())
        12
    """
    _check_placement(placement)
    make = maker(norm)
    return _built_in(model, make, placement, tuple(input_shape), num_classes, dropout, options)


def brings_its_own_norms(
    model: str, *, input_shape: Sequence[int], num_classes: int, dropout: float = 0.0, **options: Any
) -> bool:
    """Whether a model comes with batch norms, so that arms replace those and a placement has no meaning.

    Args:
        model: a name in `KNOWN` (a recurrent one has places for them), or a target, whose factory is called; the random
            state stays as it was.
        input_shape: shape of a sample.
        num_classes: number of classes.
        dropout: as for `build`.
        options: as for `build`.

    Returns:
        Whether it has any of torch's batch norm layers or ours.

    Raises:
        ModelError: the model cannot be built, or its factory gives out the same model twice.

    Example:
        >>> brings_its_own_norms("lenet", input_shape=(1, 28, 28), num_classes=10)
        False
    """
    if not is_target(model):
        return _recipe(model).recurrent
    return own.has_norms(model, tuple(input_shape), num_classes, dropout, options)


def _recipe(model: str) -> Recipe:
    if model not in RECIPES:
        raise ModelError(
            f"model: unknown {model!r}; known: {', '.join(KNOWN)}, or your own as file.py:factory"
        )
    return RECIPES[model]


def _check_placement(placement: str) -> None:
    if placement not in PLACEMENTS:
        raise UsageError(f"placement: expected before or after, got {placement!r}")


def _built_in(
    model: str,
    norm: NormMaker,
    placement: str,
    shape: tuple[int, ...],
    num_classes: int,
    dropout: float,
    options: dict[str, Any],
) -> nn.Module:
    recipe = _recipe(model)
    settings = read(model, options, recipe.options)
    if recipe.least is not None:
        _check_images(model, shape, recipe.least(settings))
    try:
        return recipe.make(Plan(shape, num_classes, placement, dropout, norm, settings))
    except (RuntimeError, TypeError, OverflowError, MemoryError) as problem:
        raise ModelError(f"model: {model} cannot be built with these settings: {describe(problem)}") from None


def _check_images(model: str, shape: tuple[int, ...], least: int) -> None:
    if len(shape) != 3:
        raise ModelError(f"model: {model} takes images (C, H, W), the data gives {_text(shape)}; use mlp")
    if min(shape[1:]) < least:
        raise ModelError(
            f"model: {model} needs images of at least {least}x{least}, the data gives {shape[1]}x{shape[2]}; use mlp"
        )


def _check_output(model: str, module: nn.Module, example: Tensor, num_classes: int) -> None:
    modes = (False, True) if len(example) > 1 else (False,)
    for training in modes:
        try:
            output = run(module, example, training=training)
        except Exception as problem:
            raise ModelError(
                f"model: {model} on a batch {_text(example.shape)} raised {describe(problem)}"
            ) from problem
        expected = (len(example), num_classes)
        if not isinstance(output, Tensor):
            raise ModelError(
                f"model: {model} must return a tensor {_text(expected)} (samples, classes), "
                f"got a {type(output).__name__}"
            )
        if tuple(output.shape) != expected:
            raise ModelError(
                f"model: {model} must return {_text(expected)} (samples, classes), got {_text(output.shape)}"
            )
        if not torch.is_floating_point(output):
            raise ModelError(f"model: {model} must return floating point logits, got {output.dtype}")


def _text(shape: Sequence[int]) -> str:
    return f"({', '.join(str(size) for size in shape)}{',' if len(shape) == 1 else ''})"
