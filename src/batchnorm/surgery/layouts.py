"""Where the channels of a value are, and the batch norm that fits there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import batchnorm.nn as ours
from batchnorm.errors import ConversionError

__all__ = ["Layout", "Layouts", "Spot", "make_norm", "spot_of"]

Layout = Literal["first", "last"]

_FIRST = frozenset(f"conv{kind}{rank}d" for kind in ("", "_transpose") for rank in (1, 2, 3))
_LAST = frozenset(
    (
        "linear",
        "bilinear",
        "embedding",
        "layer_norm",
        "rms_norm",
        "multi_head_attention_forward",
        "lstm",
        "gru",
    )
) | {"rnn_tanh", "rnn_relu"}
# After these a channel may be anywhere.
_MOVES = frozenset(
    (
        *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "view"),
        *("reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "__get__", "__getitem__"),
        *("einsum", "bmm", "matmul", "__matmul__", "unfold", "fold"),
    )
)


@dataclass(frozen=True)
class Spot:
    """Where a batch norm is to stand.

    Args:
        channels: number of channels.
        ndim: dimensions of the value.
        last: whether the channels are the last dimension and not the second.
    """

    channels: int
    ndim: int
    last: bool = False


class Layouts(TorchFunctionMode):
    """Follows values through a forward pass: which layer made their channels, a convolution or a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self._layouts: dict[int, Layout] = {}
        # Held so that no id is used twice.
        self._held: list[Tensor] = []

    def layout(self, value: Tensor) -> Layout | None:
        """Where the channels of a value are; None where it is not known."""
        return self._layouts.get(id(value))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.note(func, args, kwargs, result)
        return result

    def note(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Learn from a call."""
        name = getattr(func, "__name__", "")
        given = [value for value in _flat((*args, *kwargs.values())) if isinstance(value, Tensor)]
        for value in _flat((result,)):
            if not isinstance(value, Tensor):
                continue
            self._held.append(value)
            known: Layout | None = None
            if name in _FIRST:
                known = "first"
            elif name in _LAST:
                known = "last"
            elif name not in _MOVES:
                known = next(
                    (
                        self._layouts[id(g)]
                        for g in given
                        if id(g) in self._layouts and g.dim() == value.dim()
                    ),
                    None,
                )
            if known is None:
                self._layouts.pop(id(value), None)
            else:
                self._layouts[id(value)] = known


def spot_of(shape: Sequence[int], layout: Layout | None, where: str) -> Spot:
    """The spot for a value of this shape.

    Args:
        shape: of the value, batch first.
        layout: where its channels are, if known; without it images and volumes have them second.
        where: names the place in messages.

    Raises:
        ConversionError: there is no telling where the channels are, or no dimension for them.
    """
    ndim = len(shape)
    if ndim == 2:
        return Spot(shape[1], 2)
    if layout == "last" and ndim > 2:
        return Spot(shape[-1], ndim, last=True)
    if ndim in (4, 5) or (ndim == 3 and layout == "first"):
        return Spot(shape[1], ndim)
    text = f"({', '.join(str(size) for size in shape)})"
    if ndim == 3:
        raise ConversionError(
            f"insert: at {where} there is no telling (N, C, L) from (N, L, C) in {text}; place a BatchNorm1d or a "
            "ChannelsLastBatchNorm there by hand"
        )
    raise ConversionError(f"insert: at {where} a batch norm needs 2 to 5 dimensions, batch first, got {text}")


def make_norm(spot: Spot, like: nn.Module) -> nn.Module:
    """A batch norm for a spot, on the device, of the type and in the mode of a model."""
    tensor = next((p for p in like.parameters() if p.is_floating_point()), None)
    settings: dict[str, Any] = {} if tensor is None else {"device": tensor.device, "dtype": tensor.dtype}
    kinds: dict[int, type[nn.Module]] = {2: ours.BatchNorm1d, 3: ours.BatchNorm1d, 4: ours.BatchNorm2d}
    kind = ours.ChannelsLastBatchNorm if spot.last else kinds.get(spot.ndim, ours.BatchNorm3d)
    return kind(spot.channels, **settings).train(like.training)


def _flat(values: Any) -> list[Any]:
    leaves: list[Any] = torch.utils._pytree.tree_leaves(values)
    return leaves
