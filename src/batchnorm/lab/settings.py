"""Values as a person types them, turned into numbers, or into one line that says what was wrong."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from batchnorm.errors import UsageError

__all__ = [
    "FURTHER",
    "MOST_JOBS",
    "Further",
    "at_least_zero",
    "fraction",
    "further_settings",
    "known",
    "list_of",
    "names",
    "number",
    "once",
    "positive",
    "switch",
    "whole",
]

MOST_JOBS = 4096


def known(option: str, value: str, names: Iterable[str]) -> str:
    """Return `value` if it is one of `names`."""
    names = tuple(names)
    if value not in names:
        raise UsageError(f"{option} {value!r} is unknown; choose from {', '.join(names)}")
    return value


def number(option: str, value: Any) -> float:
    """Return `value` as a finite number."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{option} {value!r} is not a number") from None
    if not math.isfinite(result):
        raise UsageError(f"{option} {value!r} is not a finite number")
    return result


def positive(option: str, value: Any) -> float:
    """Return `value` as a finite number above zero."""
    result = number(option, value)
    if result <= 0:
        raise UsageError(f"{option} {value!r} must be above 0")
    return result


def at_least_zero(option: str, value: Any) -> float:
    """Return `value` as a finite number that is not below zero."""
    result = number(option, value)
    if result < 0:
        raise UsageError(f"{option} {value!r} must be at least 0")
    return result


def fraction(option: str, value: Any) -> float:
    """Return `value` as a number in [0, 1)."""
    result = number(option, value)
    if not 0 <= result < 1:
        raise UsageError(f"{option} {value!r} must be at least 0 and below 1")
    return result


def whole(option: str, value: Any, least: int, most: int = 2**31 - 1) -> int:
    """Return `value` as a whole number from `least` to `most`."""
    try:
        result = int(str(value))
    except ValueError:
        raise UsageError(f"{option} {value!r} is not a whole number of at least {least}") from None
    if result < least:
        raise UsageError(f"{option} {value!r} must be at least {least}")
    if result > most:
        raise UsageError(f"{option} {value!r} must be at most {most}")
    return result


def switch(option: str, value: Any) -> bool:
    """Return `value` as a truth value."""
    text = str(value).lower()
    if text in ("true", "yes", "on", "1"):
        return True
    if text in ("false", "no", "off", "0"):
        return False
    raise UsageError(f"{option} {value!r} is neither true nor false")


def list_of(option: str, value: Any) -> list[Any]:
    """Return the entries of a comma-separated text, or of any other sequence; none is refused."""
    entries = [entry.strip() for entry in value.split(",")] if isinstance(value, str) else list(value)
    if not entries or entries == [""]:
        raise UsageError(f"{option} {value!r} is empty; name at least one")
    if "" in entries:
        raise UsageError(f"{option} {value!r} has an empty entry")
    return entries


def names(option: str, value: Any, allowed: Iterable[str]) -> tuple[str, ...]:
    """Return the entries of `value`, each known and none twice."""
    allowed = tuple(allowed)
    entries = [known(option, entry, allowed) for entry in list_of(option, value)]
    once(option, value, entries)
    return tuple(entries)


def once(option: str, value: Any, entries: list[Any]) -> None:
    """Refuse entries that occur twice."""
    for entry in entries:
        if entries.count(entry) > 1:
            raise UsageError(f"{option} {value!r} has {entry!r} twice")


@dataclass(frozen=True)
class Further:
    """A key of `--set`: how its value is read, what it is when not given, and who takes it."""

    read: Callable[[str, Any], Any]
    default: Any
    optimizers: tuple[str, ...]
    meaning: str


_ALL = ("sgd", "adam", "adamw")
_ADAPTIVE = ("adam", "adamw")
FURTHER: dict[str, Further] = {
    "momentum": Further(fraction, 0.0, ("sgd",), "momentum of SGD, in [0, 1)"),
    "nesterov": Further(switch, False, ("sgd",), "Nesterov's momentum, true or false; needs momentum"),
    "weight_decay": Further(at_least_zero, None, _ALL, "weight decay, at least 0; 0.01 for AdamW, else 0"),
    "beta1": Further(fraction, 0.9, _ADAPTIVE, "decay of Adam's first moment, in [0, 1)"),
    "beta2": Further(fraction, 0.999, _ADAPTIVE, "decay of Adam's second moment, in [0, 1)"),
    "label_smoothing": Further(fraction, 0.0, _ALL, "label smoothing of the training loss, in [0, 1)"),
}


def further_settings(pairs: Any, optimizer: str) -> dict[str, Any]:
    """Read `key=value` pairs, or a mapping; `model.` keys are left to the model builder as they are.

    Returns: the keys that differ from their default, sorted; the same settings always look the same.
    """
    found: dict[str, Any] = {}
    for key, value in _split(pairs):
        if key in found:
            raise UsageError(f"--set {key!r} is given twice")
        if key.startswith("model.") and key.removeprefix("model.").isidentifier():
            found[key] = value
            continue
        if key not in FURTHER:
            raise UsageError(f"--set {key!r} is unknown; choose from {', '.join(FURTHER)}, model.NAME")
        entry = FURTHER[key]
        if optimizer not in entry.optimizers:
            raise UsageError(f"--set {key!r} means nothing to --optimizer {optimizer}")
        found[key] = entry.read(f"--set {key}", value)
    if found.get("nesterov") and not found.get("momentum"):
        raise UsageError("--set 'nesterov' needs a momentum above 0, such as --set momentum=0.9")
    return {
        key: value
        for key, value in sorted(found.items())
        if key not in FURTHER or value != FURTHER[key].default
    }


def _split(pairs: Any) -> list[tuple[str, Any]]:
    if isinstance(pairs, Mapping):
        return [(str(key), value) for key, value in pairs.items()]
    result = []
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key.strip() or not value.strip():
            raise UsageError(f"--set {pair!r} is not of the form key=value")
        result.append((key.strip(), value.strip()))
    return result
