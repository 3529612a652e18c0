"""A trained model of the user's: from a target, with weights from a file."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from batchnorm.errors import ModelError, UsageError
from batchnorm.lab.models import own
from batchnorm.lab.targets import describe, load_target

__all__ = ["save_state", "trained_model"]


def trained_model(
    target: str, weights: str | None, *, input_shape: tuple[int, ...], num_classes: int
) -> nn.Module:
    """The model that a target is or returns, with the weights of a file.

    Args:
        target: `file.py:name` or `package.module:name`, a model, or a function that returns one; it may take
            num_classes, in_channels and input_shape.
        weights: file that torch.save wrote of a state_dict, or of a dict with one under "state_dict" or "model"; it is
            loaded without running code from it. None for those that the target comes with.
        input_shape: shape of a sample.
        num_classes: number of classes.

    Returns:
        The model.

    Raises:
        ModelError: (ValueError) the target gives no model, or the weights do not fit it.
        UsageError: (ValueError) the file cannot be read.

    Example:
        >>> type(trained_model("torch.nn:Identity", None, input_shape=(3,), num_classes=2)).__name__
        'Identity'
    """
    found = load_target(target)
    model = found if isinstance(found, nn.Module) else own.make(target, input_shape, num_classes, 0.0, {})
    if weights is not None:
        state = _read(weights)
        try:
            model.load_state_dict(state)
        except (RuntimeError, TypeError) as problem:
            raise ModelError(f"--weights {weights!r} do not fit {target!r}: {describe(problem)}") from problem
    return model


def _read(path: str) -> Any:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as problem:
        raise UsageError(f"--weights {path!r}: {problem.strerror or problem}") from None
    except Exception as problem:  # a file of another kind makes torch.load raise nearly anything
        raise UsageError(f"--weights {path!r} is no file of weights: {type(problem).__name__}") from problem
    if not isinstance(content, dict):
        raise UsageError(f"--weights {path!r}: expected a state_dict, got a {type(content).__name__}")
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), dict):
            return content[key]
    return content


def save_state(model: nn.Module, path: Path) -> None:
    """Write a model's state_dict to a new file; an interruption leaves no half of one.

    Raises:
        UsageError: (ValueError) there is such a file.
    """
    if path.exists():
        raise UsageError(f"--out {str(path)!r} exists; choose another name")
    part = path.with_name(path.name + ".part")
    try:
        torch.save(model.state_dict(), part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
