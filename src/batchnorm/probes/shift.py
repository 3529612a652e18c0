"""Internal covariate shift, as a change of gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from batchnorm.errors import ArgumentError, ArgumentTypeError, ShapeError
from batchnorm.probes.evaluation import Loss, gradient, moved_to, norm, shifted, trainable
from batchnorm.probes.predictiveness import cosine, difference

__all__ = ["LayerShift", "covariate_shift"]

Layer = str | tuple[str, ...]


@dataclass(frozen=True)
class LayerShift:
    """How the gradient of one layer changes when the layers below it are updated.

    Args:
        layer: path of the module, or paths of the modules, that make up the layer.
        gradient_norm: ||G||.
        moved_gradient_norm: ||G'||.
        shift: ||G - G'||.
        cosine: of the angle between G and G'; NaN where one is 0.
    """

    layer: Layer
    gradient_norm: float
    moved_gradient_norm: float
    shift: float
    cosine: float


def covariate_shift(
    model: nn.Module,
    loss: Loss,
    layers: Sequence[Layer] | None = None,
    *,
    lr: float | None = None,
    moved: Mapping[str, Tensor] | None = None,
) -> list[LayerShift]:
    """Measure, for each layer, how the update of the layers before it changes its gradient on the same batch.

    G_i  = grad_{W_i} L(W_1, ..., W_k)
    G'_i = grad_{W_i} L(W_1', ..., W_{i-1}', W_i, ..., W_k),  W' = W - lr * G

    k forward and backward passes for k layers. Memory: two further copies of the parameters, and two gradients.

    Args:
        model: runs in the modes its modules are in; put back as it was, also when a pass raises.
        loss: model -> tensor with one value, on the same batch each time.
        layers: in the order of depth, each the path of a module or a tuple of paths, with the trainable parameters of
            all modules inside; default every module that owns trainable parameters, in the order of registration.
            What is in no layer stays where it is.
        lr: learning rate of a step of gradient descent.
        moved: instead of lr, name -> values after the update, such as the `state_dict` after an optimizer's step; it
            may hold other names too.

    Returns:
        A `LayerShift` a layer. The first layer has nothing before it: its shift is 0.

    Raises:
        ArgumentError: (ValueError) not one of lr and moved, a layer without a module or without trainable parameters, a
            parameter in two layers, a parameter that moved lacks; and as for `gradient_norms`.
        ArgumentTypeError: (TypeError) an argument is of another type.
        ShapeError: (RuntimeError) a value in moved has another shape than its parameter.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from batchnorm import probes
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
        >>> for layer in model:
        ...     _ = nn.init.constant_(layer.weight, 2)
        >>> output = lambda model: model(torch.ones(1, 1)).sum()  # the product of the weights
        >>> probes.covariate_shift(model, output, lr=0.25)[1]
        LayerShift(layer='1', gradient_norm=2.0, moved_gradient_norm=1.5, shift=0.5, cosine=1.0)

    Source: Santurkar et al. 2018, arXiv:1805.11604, definition 2.1.
    """
    parameters = trainable(model)
    groups = _groups(model, parameters, layers)
    if (lr is None) == (moved is None):
        raise ArgumentError("lr, moved: expected one of them, got " + ("none" if lr is None else "both"))
    _, start = gradient(model, loss, list(parameters.values()))
    before = dict(zip(parameters, start, strict=True))
    below: dict[nn.Parameter, Tensor] = {}
    found = []
    for layer, names in groups.items():
        own = [parameters[name] for name in names]
        first = [before[name] for name in names]
        second = first
        if below:
            with moved_to(below):
                _, second = gradient(model, loss, own)
        found.append(
            LayerShift(layer, norm(first), norm(second), difference(first, second), cosine(first, second))
        )
        if moved is None:
            assert lr is not None
            below |= shifted(own, first, lr)[0]
        else:
            below |= {parameters[name]: _value(name, parameters[name], moved) for name in names}
    return found


def _value(name: str, parameter: nn.Parameter, moved: Mapping[str, Tensor]) -> Tensor:
    if name not in moved:
        raise ArgumentError(f"moved: expected a value for every parameter of the layers, got none for {name}")
    value = moved[name]
    if value.shape != parameter.shape:
        raise ShapeError(
            f"moved: expected shape {tuple(parameter.shape)} for {name}, got {tuple(value.shape)}"
        )
    with torch.inference_mode(False):
        return value.detach().to(parameter)


def _groups(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], layers: Sequence[Layer] | None
) -> dict[Layer, list[str]]:
    if layers is None:
        owners: dict[Layer, list[str]] = {}
        for name in parameters:
            owners.setdefault(name.rpartition(".")[0], []).append(name)
        return owners
    if isinstance(layers, str):
        raise ArgumentTypeError(f"layers: expected a list of paths or of tuples of paths, got {layers!r}")
    modules = dict(model.named_modules(remove_duplicate=False))
    names = {id(parameter): name for name, parameter in parameters.items()}
    groups: dict[Layer, list[str]] = {}
    taken: dict[str, Layer] = {}
    for layer in layers:
        paths = (layer,) if isinstance(layer, str) else tuple(layer)
        for path in paths:
            if path not in modules:
                raise ArgumentError(f"layers: expected paths that model.named_modules() has, got {path!r}")
        inside = {names[id(p)]: p for path in paths for p in modules[path].parameters() if id(p) in names}
        if not inside:
            raise ArgumentError(f"layers: expected trainable parameters in each, got none in {layer!r}")
        for name in inside:
            if name in taken:
                raise ArgumentError(
                    f"layers: {name} belongs to {taken[name]!r} and to {layer!r}; name it once"
                )
            taken[name] = layer
        groups[layer if isinstance(layer, str) else paths] = list(inside)
    if not groups:
        raise ArgumentError("layers: expected one layer or more, got none")
    return groups
