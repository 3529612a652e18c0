"""Readers of the settings that come as `--set model.key=value`."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from batchnorm.errors import UsageError

__all__ = ["ACTIVATIONS", "activation", "depth", "number", "read", "stride", "whole", "widths"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def read(
    model: str, options: Mapping[str, Any], known: Mapping[str, tuple[Any, Callable[[Any], Any]]]
) -> dict[str, Any]:
    """All settings of a model: those given, read and checked, and the defaults of the others.

    Raises:
        UsageError: an unknown key, or a value that its reader refuses; the message names both.
    """
    for key in options:
        if key not in known:
            names = ", ".join(f"model.{name}" for name in known) or "none"
            raise UsageError(f"model.{key}: {model} has no such setting; its settings: {names}")
    settings = {key: default for key, (default, _) in known.items()}
    for key, value in options.items():
        try:
            settings[key] = known[key][1](value)
        except (TypeError, ValueError) as problem:
            raise UsageError(f"model.{key}: expected {problem}, got {value!r}") from None
    return settings


def whole(value: Any) -> int:
    """A positive whole number."""
    if isinstance(value, str):
        value = int(value) if value.strip().isdecimal() else None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("a whole number from 1")
    return value


def widths(value: Any) -> tuple[int, ...]:
    """Positive whole numbers, as text separated by commas."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        found = tuple(whole(part) for part in (parts if isinstance(parts, tuple | list) else (parts,)))
    except ValueError:
        found = ()
    if not found:
        raise ValueError("whole numbers from 1 separated by commas")
    return found


def depth(value: Any) -> int:
    """The depth of a residual network: 6n + 2 for n blocks in each of three stages."""
    try:
        number = whole(value)
    except ValueError:
        number = 0
    if number < 8 or (number - 2) % 6:
        raise ValueError("a depth of 6n + 2 (8, 14, 20, 26, ...)")
    return number


def stride(value: Any) -> int:
    """The stride of a first convolution."""
    try:
        step = whole(value)
    except ValueError:
        step = 0
    if step not in (1, 2):
        raise ValueError("1 or 2")
    return step


def number(value: Any) -> float:
    """A finite number from 0."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not 0 <= found < math.inf:
        raise ValueError("a number from 0")
    return found


def activation(value: Any) -> str:
    """The name of an activation."""
    if value not in ACTIVATIONS:
        raise ValueError(f"one of {', '.join(ACTIVATIONS)}")
    return str(value)
