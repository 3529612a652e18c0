"""Infer from a graph alone, without an example, how many channels a value has."""

import operator
from typing import Any

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from batchnorm.surgery.hidden import ACTIVATION_MODULES, is_activation_call
from batchnorm.surgery.layouts import Spot

__all__ = ["static_spot"]

_KEEPING_MODULES = (
    *ACTIVATION_MODULES,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.Identity,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)
_KEEPING_NAMES = frozenset(
    (
        *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "clone"),
        *("contiguous", "add", "add_", "sub", "mul", "iadd", "interpolate"),
    )
)
_OPERATORS = frozenset({operator.add, operator.iadd, operator.sub, operator.mul, operator.truediv})


def static_spot(node: fx.Node, model: nn.Module) -> Spot | None:
    """The spot of a node's value, from the layer before it; None where that does not tell.

    A linear layer is taken to see (N, C) where its input is the model's own, or was flattened.
    """
    current: Any = node
    while isinstance(current, fx.Node):
        layer = _layer(current, model)
        if isinstance(layer, _ConvNd):
            return Spot(layer.out_channels, len(layer.kernel_size) + 2)
        if isinstance(layer, nn.Linear):
            return Spot(layer.out_features, 2) if _is_rows(current.args[0], model) else None
        if not (_keeps(current, layer) or _pools(current, layer)):
            return None
        current = next((value for value in current.args if isinstance(value, fx.Node)), None)
    return None


def _is_rows(value: Any, model: nn.Module) -> bool:
    while isinstance(value, fx.Node):
        layer = _layer(value, model)
        if value.op == "placeholder" or _flattens(value, layer):
            return True
        if not (isinstance(layer, nn.Linear) or _keeps(value, layer)):
            return False
        value = next((item for item in value.args if isinstance(item, fx.Node)), None)
    return False


def _layer(node: fx.Node, model: nn.Module) -> nn.Module | None:
    return model.get_submodule(str(node.target)) if node.op == "call_module" else None


def _keeps(node: fx.Node, layer: nn.Module | None) -> bool:
    if layer is not None:
        return isinstance(layer, _KEEPING_MODULES)
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return (
        is_activation_call(node.target, node.args, node.kwargs)
        or node.target in _OPERATORS
        or name in _KEEPING_NAMES
    )


def _pools(node: fx.Node, layer: nn.Module | None) -> bool:
    if layer is not None:
        return type(layer).__module__ in ("torch.nn.modules.pooling", "torch.nn.modules.upsampling")
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op == "call_function" and "pool" in name


def _flattens(node: fx.Node, layer: nn.Module | None) -> bool:
    """Whether the value has two dimensions for certain."""
    if isinstance(layer, nn.Flatten):
        return (layer.start_dim, layer.end_dim) == (1, -1)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    rest = node.args[1:]
    if node.op not in ("call_function", "call_method"):
        return False
    if name == "flatten":
        start = rest[0] if rest else node.kwargs.get("start_dim", 0)
        return bool(start == 1) and len(rest) < 2 and "end_dim" not in node.kwargs
    if name in ("view", "reshape"):
        sizes = rest[0] if len(rest) == 1 and isinstance(rest[0], tuple | list) else rest
        return bool(len(sizes) == 2)
    return False
