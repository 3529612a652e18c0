"""The user's own network: call its factory, and put an arm's norm layers where its batch norms are or would be."""

import ast
import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from batchnorm.errors import ConversionError, ModelError, UsageError
from batchnorm.lab.arms import CONVERSIONS
from batchnorm.lab.models.network import Network
from batchnorm.lab.targets import describe, importable, load_target
from batchnorm.surgery import convert_, insert_
from batchnorm.surgery.layers import batch_norm_paths
from batchnorm.surgery.restored import generators_kept

__all__ = ["build", "has_norms", "make"]


def build(
    target: str,
    arm: str,
    placement: str,
    shape: tuple[int, ...],
    num_classes: int,
    dropout: float,
    example: Tensor,
    options: Mapping[str, Any],
) -> Network:
    """The network of a target; see `batchnorm.lab.models.build`."""
    module = make(target, shape, num_classes, dropout, options)
    sites = batch_norm_paths(module)
    found = "own" if sites else placement
    try:
        if not sites:
            module = insert_(module, placement, example=example)
            sites = batch_norm_paths(module)
        to, settings = CONVERSIONS.get(arm, (arm, {}))
        module = convert_(module, to, example=example, **settings)
    except ConversionError as problem:
        raise ModelError(f"model: {target}: {problem}") from problem
    return Network(module, sites, None if arm == "none" else found)


def has_norms(
    target: str, shape: tuple[int, ...], num_classes: int, dropout: float, options: Mapping[str, Any]
) -> bool:
    """Whether the network of a target has batch norms; see `batchnorm.lab.models.brings_its_own_norms`."""
    with generators_kept():
        first, second = (make(target, shape, num_classes, dropout, options) for _ in range(2))
    shared = {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    if first is second or shared:
        raise ModelError(
            f"model: {target} returned the same weights twice; every run needs new ones: "
            "build the model inside the function"
        )
    return bool(batch_norm_paths(first))


def make(
    target: str, shape: tuple[int, ...], num_classes: int, dropout: float, options: Mapping[str, Any]
) -> nn.Module:
    """A new model from the factory that a target names, called with those of these arguments that it takes."""
    factory = load_target(target, call=True)
    if isinstance(factory, nn.Module):
        raise ModelError(
            f"model: {target} is a model; expected a function that returns a new one, "
            "as every run starts from new weights"
        )
    arguments = _arguments(target, factory, shape, num_classes, dropout, options)
    try:
        with importable(target):
            module = factory(**arguments)
    except (Exception, SystemExit) as problem:
        raise ModelError(f"model: {target} raised {describe(problem)}") from problem
    if not isinstance(module, nn.Module):
        raise ModelError(f"model: {target} must return an nn.Module, got a {type(module).__name__}")
    return module


def _arguments(
    target: str,
    factory: Callable[..., Any],
    shape: tuple[int, ...],
    num_classes: int,
    dropout: float,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    parameters: Mapping[str, inspect.Parameter] = {}
    with contextlib.suppress(TypeError, ValueError):
        parameters = inspect.signature(factory).parameters
    kinds = inspect.Parameter
    named = {
        n: p for n, p in parameters.items() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    }
    takes_any = any(p.kind is kinds.VAR_KEYWORD for p in parameters.values())
    for key in options:
        if key not in named and not takes_any:
            known = ", ".join(f"model.{name}" for name in named) or "none"
            raise UsageError(f"model.{key}: {target} takes no such argument; its arguments: {known}")
    offered = {"num_classes": num_classes, "in_channels": shape[0], "input_shape": shape, "dropout": dropout}
    if dropout and "dropout" not in named:
        raise ModelError(
            f"model: {target} takes no argument 'dropout'; add it to the function or leave --dropout out"
        )
    arguments = {name: value for name, value in offered.items() if name in named}
    arguments |= {key: _value(value) for key, value in options.items()}
    for name, parameter in parameters.items():
        required = parameter.default is kinds.empty and parameter.kind not in (
            kinds.VAR_KEYWORD,
            kinds.VAR_POSITIONAL,
        )
        if required and name not in arguments:
            raise ModelError(
                f"model: {target} needs {name!r}, which has no default; give it one, or pass --set model.{name}=..."
            )
    return arguments


def _value(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
