"""What the plain containers of a model hold, to be compared and put back."""

from collections import OrderedDict, defaultdict, deque
from typing import Any

from torch import nn

__all__ = ["Contents"]

_LISTS = (list, deque)
_DICTS = (dict, OrderedDict, defaultdict)
_TORCHS_OWN = frozenset(vars(nn.Module()))


class Contents:
    """The items of the lists, dicts, sets and deques in a model's attributes, and in one another; items are not copied.

    Args:
        model: its attributes are read when this is made.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kept: dict[int, tuple[Any, Any]] = {}
        pending = [
            value
            for module in model.modules()
            for name, value in vars(module).items()
            if name not in _TORCHS_OWN
        ]
        while pending:
            value = pending.pop()
            if id(value) in self._kept:
                continue
            if type(value) in _LISTS or type(value) is set:
                self._kept[id(value)] = (value, list(value))
            elif type(value) in _DICTS:
                self._kept[id(value)] = (value, dict(value))
            elif not isinstance(value, tuple):
                continue
            pending += value.values() if isinstance(value, dict) else value

    def put_back(self) -> None:
        """Give every container the items that it had."""
        for value, items in self._kept.values():
            if not _holds(value, items):
                value.clear()
                (value.extend if isinstance(value, _LISTS) else value.update)(items)

    def changed(self) -> bool:
        """Whether a container has other items than it had."""
        return not all(_holds(value, items) for value, items in self._kept.values())


def _holds(value: Any, items: Any) -> bool:
    # By identity: items such as tensors have no truth value when they are compared.
    if isinstance(value, dict):
        return _ids(value) == _ids(items) and _ids(value.values()) == _ids(items.values())
    ids = _ids(value), _ids(items)
    return sorted(ids[0]) == sorted(ids[1]) if isinstance(value, set) else ids[0] == ids[1]


def _ids(items: Any) -> list[int]:
    return [id(item) for item in items]
