"""Arms of a comparison: the norm layer that stands at a network's sites, by name."""

from collections.abc import Callable

from torch import nn

from batchnorm.errors import ConversionError, UsageError
from batchnorm.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d
from batchnorm.surgery.kinds import replacement

__all__ = ["ARMS", "KNOWN", "norm_layer"]

_BATCH = {2: BatchNorm1d, 3: BatchNorm1d, 4: BatchNorm2d, 5: BatchNorm3d}


def _batch(channels: int, ndim: int) -> nn.Module:
    return _BATCH[ndim](channels)


def _of_kind(kind: str) -> Callable[[int, int], nn.Module]:
    def make(channels: int, ndim: int) -> nn.Module:
        return replacement(kind, channels, ndim=ndim)

    return make


# A later layer joins by a line here; the order is that of tables and legends.
ARMS: dict[str, Callable[[int, int], nn.Module]] = {
    "none": _of_kind("none"),
    "batch": _batch,
    "layer": _of_kind("layer"),
    "group": _of_kind("group"),
    "instance": _of_kind("instance"),
    "local": _of_kind("local"),
}
KNOWN: tuple[str, ...] = tuple(ARMS)


def norm_layer(arm: str, channels: int, ndim: int) -> nn.Module:
    """The layer that an arm puts at a site.

    Args:
        arm: a name in `KNOWN`.
        channels: channels of the site, C.
        ndim: dimensions of the site's input: 2 for (N, C), 3 for (N, C, L), 4 for images.

    Returns:
        A new layer: `nn.Identity` for "none"; BatchNorm1d or 2d for "batch"; GroupNorm(1, C), on (N, C)
        LayerNorm(C), for "layer"; GroupNorm with gcd(32, C) groups for "group"; InstanceNorm with weight and bias
        for "instance"; LocalResponseNorm over 5 channels for "local". Weights start at 1, biases at 0.

    Raises:
        UsageError: the arm is unknown, or has no meaning on such an input.

    Example:
        >>> norm_layer("group", 48, ndim=4).num_groups
        16
    """
    if arm not in ARMS:
        raise UsageError(f"norms: unknown arm {arm!r}; known: {', '.join(KNOWN)}")
    try:
        return ARMS[arm](channels, ndim)
    except ConversionError as problem:
        raise UsageError(f"norms: {problem}") from None
