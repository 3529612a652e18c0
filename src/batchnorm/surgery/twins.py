"""Batch norms that stand for one another, state and all: this package's, torch's, and those over several processes."""

from torch import nn

import batchnorm.nn as ours

__all__ = ["DONE", "LAZY", "OPTIONS", "PLAIN", "SYNCED", "twin"]

_TO_OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: ours.BatchNorm1d,
    nn.BatchNorm2d: ours.BatchNorm2d,
    nn.BatchNorm3d: ours.BatchNorm3d,
    nn.LazyBatchNorm1d: ours.LazyBatchNorm1d,
    nn.LazyBatchNorm2d: ours.LazyBatchNorm2d,
    nn.LazyBatchNorm3d: ours.LazyBatchNorm3d,
}
_TO_TORCH = {mine: torchs for torchs, mine in _TO_OURS.items()}
_OF_NDIM = {2: ours.BatchNorm1d, 3: ours.BatchNorm1d, 4: ours.BatchNorm2d, 5: ours.BatchNorm3d}

# Over several processes, of whatever rank the input is.
SYNCED: tuple[type[nn.Module], ...] = (nn.SyncBatchNorm, ours.SyncBatchNorm)
PLAIN: tuple[type[nn.Module], ...] = (*_TO_OURS, *_TO_TORCH, *SYNCED, ours.ChannelsLastBatchNorm)
LAZY = tuple(kind for kind in PLAIN if "Lazy" in kind.__name__)

# The targets that twins exist for: what each leaves as it is, and its options.
DONE: dict[str, tuple[type[nn.Module], ...]] = {
    "batchnorm": (*_TO_TORCH, ours.ChannelsLastBatchNorm),
    "torch": (*_TO_OURS, nn.SyncBatchNorm),
    "sync": (ours.SyncBatchNorm,),
}
OPTIONS = {"sync": ("process_group",)}


def twin(kind: type[nn.Module], to: str, ndim: int | None) -> type[nn.Module] | None:
    """The class that takes the place of a batch norm.

    Args:
        kind: one of `PLAIN`.
        to: a name in `DONE`.
        ndim: dimensions of the layer's input where they are known; "batchnorm" asks for them of `SYNCED` ones.

    Returns:
        None where there is none, or where ndim would have to be known.

    Example:
        >>> twin(nn.SyncBatchNorm, "batchnorm", 4)
        <class 'batchnorm.nn.batchnorm.BatchNorm2d'>
    """
    if to == "sync":
        return None if kind in (*LAZY, ours.ChannelsLastBatchNorm) else ours.SyncBatchNorm
    if to == "torch":
        return nn.SyncBatchNorm if kind is ours.SyncBatchNorm else _TO_TORCH.get(kind)
    return _OF_NDIM.get(ndim or 0) if kind in SYNCED else _TO_OURS.get(kind)
