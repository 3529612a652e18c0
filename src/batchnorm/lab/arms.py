"""Arms of a comparison: the norm layer that stands at a network's sites, by name."""

from collections.abc import Callable
from typing import Any

from torch import nn

from batchnorm.errors import ConversionError, UsageError
from batchnorm.nn import RecurrentBatchNorm1d, SyncBatchNorm
from batchnorm.surgery import convert_
from batchnorm.surgery.kinds import replacement

__all__ = ["ARMS", "CONVERSIONS", "KNOWN", "norm_layer"]

# Small against the usual batch of 32, so that the arm is another than `batch`.
_VIRTUAL_BATCH_SIZE = 8
# Ioffe's 5,000 steps would outlast these runs, which would be batch norm then; the digits have 34 steps an epoch.
_WARMUP = 40

# How `convert` makes an arm: target and options; an arm that is not here is a target of that name.
CONVERSIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "batch": ("batchnorm", {}),
    "ghost": ("ghost", {"virtual_batch_size": _VIRTUAL_BATCH_SIZE}),
    "renorm": ("renorm", {"warmup": _WARMUP}),
    "domain": ("domain", {"num_domains": 1}),
}
_BATCH = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def _converted(arm: str) -> Callable[[int, int], nn.Module]:
    def make(channels: int, ndim: int) -> nn.Module:
        to, options = CONVERSIONS.get(arm, (arm, {}))
        return convert_(_BATCH[ndim](channels), to, **options)

    return make


def _of_kind(kind: str) -> Callable[[int, int], nn.Module]:
    def make(channels: int, ndim: int) -> nn.Module:
        return replacement(kind, channels, ndim=ndim)

    return make


# A later layer joins by a line here; the order is that of tables and legends.
ARMS: dict[str, Callable[[int, int], nn.Module]] = {
    "none": _of_kind("none"),
    "batch": _converted("batch"),
    "layer": _of_kind("layer"),
    "group": _of_kind("group"),
    "instance": _of_kind("instance"),
    "local": _of_kind("local"),
    "ghost": _converted("ghost"),
    "renorm": _converted("renorm"),
    "frozen": _converted("frozen"),
    "domain": _converted("domain"),
    "sync": lambda channels, _: SyncBatchNorm(channels),
}
KNOWN: tuple[str, ...] = (*ARMS, "recurrent")


def norm_layer(arm: str, channels: int, ndim: int, steps: int | None = None) -> nn.Module:
    """The layer that an arm puts at a site.

    Args:
        arm: a name in `KNOWN`.
        channels: channels of the site, C.
        ndim: dimensions of the site's input: 2 for (N, C), 3 for (N, C, L), 4 for images.
        steps: time steps of a recurrent network; "recurrent" needs them.

    Returns:
        A new layer: `nn.Identity` for "none"; BatchNorm1d or 2d for "batch"; GroupNorm(1, C), on (N, C)
        LayerNorm(C), for "layer"; GroupNorm with gcd(32, C) groups for "group"; InstanceNorm with weight and bias
        for "instance"; LocalResponseNorm over 5 channels for "local"; GhostBatchNorm with virtual batches of 8 for
        "ghost"; BatchRenorm with a warmup of 40 steps for "renorm"; FrozenBatchNorm for "frozen", whose statistics
        `build_network` measures; DomainBatchNorm for one domain for "domain"; SyncBatchNorm for "sync";
        RecurrentBatchNorm1d for "recurrent". Weights start at 1, that of the last at 0.1, biases at 0.

    Raises:
        UsageError: the arm is unknown, or has no meaning on such an input.

    Example:
        >>> norm_layer("group", 48, ndim=4).num_groups
        16
    """
    if arm == "recurrent" and steps is not None:
        return RecurrentBatchNorm1d(channels, steps)
    if arm == "recurrent":
        raise UsageError("norms: 'recurrent' has no meaning where there are no time steps")
    if arm not in ARMS:
        raise UsageError(f"norms: unknown arm {arm!r}; known: {', '.join(KNOWN)}")
    try:
        return ARMS[arm](channels, ndim)
    except ConversionError as problem:
        raise UsageError(f"norms: {problem}") from None
