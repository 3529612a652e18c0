"""Tensors of the kind that a call had before: one check of torch's in place of some forty of ours.

To check one tensor for what the kernels need (type, memory format, place, no view that torch negates when it reads
it) takes seven questions, and those about all tensors of a small layer take longer than its kernel. torch.compile asks
the same of all inputs of a compiled graph at once, in C++: Python's type, dispatch keys (which tell the device, the
layout, negated views, transforms and subclasses apart), dtype, sizes, strides and requires_grad.

Nothing is kept of the tensors, so an entry can only be right or of no use: what was found for tensors of one kind holds
for all of that kind, whichever layer they belong to.
"""

from typing import Any, Generic, TypeVar

from torch import Tensor

TensorGuards: Any
try:
    from torch._C._dynamo.guards import TensorGuards
except ImportError:  # another torch: every call is checked by ours
    TensorGuards = None

__all__ = ["Recognition"]

Facts = TypeVar("Facts")
_MOST = 1024


class Recognition(Generic[Facts]):
    """What was found out about some tensors, for later tensors that are alike in all that was asked.

    An entry is found by a number, such as the address of what a layer keeps, which only decides where to look.

    Example:
        >>> import torch
        >>> known = Recognition()
        >>> first, second = torch.randn(4, 3), torch.randn(4, 3)
        >>> known.keep(0, (first,), "three channels")
        >>> known.find(0, (second,)), known.find(0, (second.t(),))
        ('three channels', None)
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[Any, Facts]] = {}

    def find(self, key: int, tensors: tuple[Tensor, ...]) -> Facts | None:
        """The facts that were kept for this key, if these tensors are of the same kind, and none of them is another."""
        entry = self._entries.get(key)
        return entry[1] if entry is not None and entry[0].check(*tensors) else None

    def keep(self, key: int, tensors: tuple[Tensor, ...], facts: Facts) -> None:
        """Remember facts that follow from the kind of these tensors; under one key their number is always the same."""
        if TensorGuards is None:
            return
        if len(self._entries) >= _MOST:
            self._entries.clear()
        guards = TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None)
        self._entries[key] = guards, facts
