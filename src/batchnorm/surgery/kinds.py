"""Other norm layers that can stand where a batch norm stands, by name."""

import math
from typing import Any

from torch import Tensor, nn

from batchnorm.errors import ConversionError

__all__ = ["KINDS", "ChannelsLastGroupNorm", "replacement"]

KINDS: dict[str, tuple[str, ...]] = {
    "none": (),
    "layer": (),
    "group": ("num_groups",),
    "instance": (),
    "local": ("size", "alpha", "beta", "k"),
}

# The window of AlexNet's response normalization (Krizhevsky et al. 2012); the other three are torch's defaults.
_LOCAL_SIZE = 5
# Wu & He 2018 use 32 groups; the greatest common divisor makes that fit any number of channels.
_GROUPS = 32

_INSTANCE = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


class ChannelsLastGroupNorm(nn.GroupNorm):
    """Group norm of (N, *, C): what `nn.GroupNorm` computes with the last dimension moved to the second place.

    Args:
        num_groups: number of groups; divides num_channels.
        num_channels: C.
        eps: added to the variance. Default 1e-5.
        affine: whether there is a weight and a bias a channel. Default True.

    Returns:
        A tensor of the input's shape.

    Example:
        >>> import torch
        >>> ChannelsLastGroupNorm(2, 6)(torch.randn(4, 9, 6)).shape
        torch.Size([4, 9, 6])

    Source:
        Wu & He 2018, "Group Normalization", equation 7.
    """

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(-1, 1)).movedim(1, -1)


def replacement(
    kind: str,
    channels: int,
    *,
    ndim: int | None = None,
    channels_last: bool = False,
    affine: bool = True,
    device: Any = None,
    dtype: Any = None,
    **options: Any,
) -> nn.Module:
    """A layer of the given kind for `channels` channels.

    Args:
        kind: a name in `KINDS`.
        channels: number of channels, C.
        ndim: dimensions of the input where they are known: 2 for (N, C), 3 for (N, C, L), 4 for images.
        channels_last: whether the channels are the last dimension.
        affine: whether the layer has a weight and a bias a channel.
        device: device of its parameters.
        dtype: type of its parameters.
        options: those that `KINDS` lists for the kind.

    Returns:
        The layer; `nn.Identity` for "none".

    Raises:
        ConversionError: the kind has no meaning for such an input, or an option is unknown or does not fit.

    Example:
        >>> replacement("group", 48).num_groups
        16
    """
    unknown = sorted(set(options) - set(KINDS[kind]))
    if unknown:
        known = ", ".join(KINDS[kind]) or "none"
        raise ConversionError(f"{kind!r} has no option {unknown[0]!r}; its options: {known}")
    settings: dict[str, Any] = {"device": device, "dtype": dtype}
    if kind == "none":
        return nn.Identity()
    if kind == "local":
        if channels_last or ndim not in (None, 4):
            raise ConversionError(
                f"'local' (LocalResponseNorm) is for images (N, C, H, W); got {_shape(ndim, channels_last)}"
            )
        _check_local(options)
        return nn.LocalResponseNorm(**{"size": _LOCAL_SIZE, **options})
    if kind == "layer":
        if channels_last or ndim == 2:
            return nn.LayerNorm(channels, elementwise_affine=affine, **settings)
        return nn.GroupNorm(1, channels, affine=affine, **settings)
    if kind == "instance":
        return _instance(channels, ndim, channels_last, affine=affine, **settings)
    groups = options.get("num_groups", math.gcd(_GROUPS, channels))
    if not _is_count(groups) or channels % groups:
        raise ConversionError(f"num_groups: expected a divisor of the {channels} channels, got {groups!r}")
    if ndim == 2 and groups == channels:
        raise ConversionError(
            f"'group' on (N, {channels}) would be {groups} groups of one value, always 0; use another width or 'layer'"
        )
    layer = ChannelsLastGroupNorm if channels_last else nn.GroupNorm
    return layer(groups, channels, affine=affine, **settings)


def _instance(channels: int, ndim: int | None, channels_last: bool, **settings: Any) -> nn.Module:
    if ndim is None:
        raise ConversionError(
            "'instance' after a 1d or channels-last layer needs to know (N, C) from (N, C, L): pass example=a batch"
        )
    if ndim == 2:
        raise ConversionError(
            f"'instance' has no meaning on (N, {channels}): every value would be normalised alone, to 0; use 'layer'"
        )
    if channels_last:
        return ChannelsLastGroupNorm(channels, channels, **settings)
    if ndim not in _INSTANCE:
        raise ConversionError(f"'instance' needs (N, C, L), images or volumes; got {ndim} dimensions")
    return _INSTANCE[ndim](channels, **settings)


def _check_local(options: dict[str, Any]) -> None:
    for name, value in options.items():
        if name == "size" and not _is_count(value):
            raise ConversionError(f"size: expected an integer of at least 1, got {value!r}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise ConversionError(f"{name}: expected a finite number, got {value!r}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _shape(ndim: int | None, channels_last: bool) -> str:
    if channels_last:
        return "(N, *, C)"
    return {2: "(N, C)", 3: "(N, C, L)", 5: "(N, C, D, H, W)"}.get(ndim or 0, f"{ndim} dimensions")
