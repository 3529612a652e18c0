"""Batch norms that stand for one another: this package's, torch's, and the kinds with other statistics."""

from torch import nn

import batchnorm.nn as ours

__all__ = ["DONE", "KEEPS_FUNCTION", "LAZY", "NDIM", "OPTIONS", "PLAIN", "SYNCED", "twin"]

Kinds = tuple[type[nn.Module], ...]

# For 1d, 2d and 3d, and lazy ones. A kind joins by a line here, and one in OPTIONS where it has some.
_FAMILIES: dict[str, Kinds] = {
    "batchnorm": (
        *(ours.BatchNorm1d, ours.BatchNorm2d, ours.BatchNorm3d),
        *(ours.LazyBatchNorm1d, ours.LazyBatchNorm2d, ours.LazyBatchNorm3d),
    ),
    "torch": (
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
        *(nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d),
    ),
    "ghost": (ours.GhostBatchNorm1d, ours.GhostBatchNorm2d, ours.GhostBatchNorm3d),
    "renorm": (ours.BatchRenorm1d, ours.BatchRenorm2d, ours.BatchRenorm3d),
    "frozen": (ours.FrozenBatchNorm1d, ours.FrozenBatchNorm2d, ours.FrozenBatchNorm3d),
    "domain": (ours.DomainBatchNorm1d, ours.DomainBatchNorm2d, ours.DomainBatchNorm3d),
}
# Of the new layer; beside them each of these targets takes `domain`, which is of the old one.
OPTIONS: dict[str, tuple[str, ...]] = {
    "ghost": ("virtual_batch_size",),
    "renorm": ("r_max", "d_max", "warmup"),
    "domain": ("num_domains",),
    "sync": ("process_group",),
}

# Over several processes, of whatever rank the input is.
SYNCED: Kinds = (nn.SyncBatchNorm, ours.SyncBatchNorm)
PLAIN: Kinds = (
    *(kind for kinds in _FAMILIES.values() for kind in kinds),
    *SYNCED,
    ours.ChannelsLastBatchNorm,
)
LAZY: Kinds = tuple(kind for kind in PLAIN if "Lazy" in kind.__name__)
_PLACE = {kind: place for kinds in _FAMILIES.values() for place, kind in enumerate(kinds)}
_PLACE_OF_NDIM = {2: 0, 3: 0, 4: 1, 5: 2}
NDIM = {kind: place + 3 for kind, place in _PLACE.items() if place in (1, 2)}

# The targets that twins exist for, and what each leaves as it is.
DONE: dict[str, Kinds] = {
    **_FAMILIES,
    "batchnorm": (*_FAMILIES["batchnorm"], ours.ChannelsLastBatchNorm),
    "torch": (*_FAMILIES["torch"], nn.SyncBatchNorm),
    "sync": (ours.SyncBatchNorm,),
}
# In one process these compute the same; what they have no twin for may stay.
KEEPS_FUNCTION = ("batchnorm", "torch", "sync")


def twin(kind: type[nn.Module], to: str, ndim: int | None) -> type[nn.Module] | None:
    """The class that takes the place of a batch norm.

    Args:
        kind: one of `PLAIN`.
        to: a name in `DONE`.
        ndim: dimensions of the layer's input where they are known; it is asked for where kind is one of `SYNCED`.

    Returns:
        None where there is none, or where ndim would have to be known.

    Example:
        >>> twin(nn.SyncBatchNorm, "batchnorm", 4)
        <class 'batchnorm.nn.batchnorm.BatchNorm2d'>
    """
    if to == "sync":
        return None if kind in (*LAZY, ours.ChannelsLastBatchNorm) else ours.SyncBatchNorm
    if to == "torch" and kind is ours.SyncBatchNorm:
        return nn.SyncBatchNorm
    place = _PLACE_OF_NDIM.get(ndim or 0) if kind in SYNCED else _PLACE.get(kind)
    family = _FAMILIES[to]
    return None if place is None or place >= len(family) else family[place]
