"""What a call of a batch norm normalizes: which values, which of them count, and whose running statistics they move."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import batchnorm.nn as ours
from batchnorm.arguments import mask_of_lengths
from batchnorm.moments import Moments, RunningStats, pool
from batchnorm.nn.tracked import TrackedNorm
from batchnorm.ops import reference

__all__ = ["Slot", "Tally", "Values", "buffers_of", "values_of"]

_DOMAIN = (ours.DomainBatchNorm1d, ours.DomainBatchNorm2d, ours.DomainBatchNorm3d)
_RENORM = (ours.BatchRenorm1d, ours.BatchRenorm2d, ours.BatchRenorm3d)


class Slot(NamedTuple):
    """One set of running statistics: a layer's, or that of one of its steps or domains."""

    layer: nn.Module
    row: int | None


class Values(NamedTuple):
    """The input of a call, a mask of its valid positions without channels or None, and the channels' dimension."""

    x: Tensor
    mask: Tensor | None
    channel_dim: int

    def moments(self) -> Moments:
        """Count, mean and biased variance of each channel, in float64 where the device has it."""
        x, mask, dim = self
        if mask is not None:
            mask = mask.expand(*x.shape[:dim], *x.shape[dim + 1 :]).unsqueeze(dim)
        # The reference sums in float64, whatever the input is.
        return reference.moments(x, mask, dim)


@dataclass
class Tally:
    """The moments of all values that one slot has seen, and how many calls they came from.

    Args:
        calls: calls with values.
        spoiled: those of them whose moments were not finite in some channel, which is left out there.
        moments: of all; count is (C,). None before the first call.
    """

    calls: int = 0
    spoiled: int = 0
    moments: Moments | None = None

    def add(self, batch: Moments, dtype: torch.dtype) -> None:
        """Join the moments of a call; a channel of which they are not finite in `dtype` stays out."""
        usable = torch.isfinite(batch.mean.to(dtype)) & torch.isfinite(batch.unbiased_var().to(dtype))
        count = torch.where(usable, torch.as_tensor(batch.count).to(batch.mean), 0)
        if not usable.all():
            self.spoiled += 1
        elif not count.any():
            return
        self.calls += 1
        parts = [Moments(count, torch.where(usable, batch.mean, 0), torch.where(usable, batch.var, 0))]
        if self.moments is not None:
            parts.insert(0, self.moments)
        counts, means, variances = (
            torch.stack([getattr(part, name) for part in parts]) for name in ("count", "mean", "var")
        )
        self.moments = pool(counts, means, variances)


def buffers_of(slot: Slot) -> RunningStats:
    """The slot's running mean, its running variance (of a BatchRenorm the standard deviation) and its counter.

    Returns:
        Views of the layer's buffers; None where it has none.
    """
    layer: Any = slot.layer
    second = "running_std" if isinstance(layer, _RENORM) else "running_var"
    found = [getattr(layer, name, None) for name in ("running_mean", second, "num_batches_tracked")]
    if slot.row is not None:
        found = [None if buffer is None else buffer[slot.row] for buffer in found]
    return RunningStats(*found)


def values_of(
    layer: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[tuple[Slot, Values]]:
    """What a call of a batch norm normalizes, for each slot that it belongs to.

    Args:
        layer: torch's batch norm, one of ours, or of a class made from them.
        args: of the call, which the layer has taken already.
        kwargs: of the call.

    Returns:
        Slot and values; nothing for time steps behind those with statistics of their own.
    """
    x = args[0] if args else kwargs.get("input", next(iter(kwargs.values()), None))
    if isinstance(x, PackedSequence):
        x = x.data
    if not isinstance(x, Tensor) or x.dim() < 2:  # torch takes (0,) as no values
        return
    x = x.detach()
    if not isinstance(layer, TrackedNorm):
        yield Slot(layer, None), Values(x, None, 1)
        return
    mask, lengths = kwargs.get("mask"), kwargs.get("lengths")
    if isinstance(layer, ours.RecurrentBatchNorm1d):
        yield from _of_steps(layer, x, mask, kwargs["step"])
        return
    row = None
    if isinstance(layer, _DOMAIN):
        chosen = kwargs.get("domain")
        row = layer._domain() if chosen is None else chosen
    if lengths is not None:
        mask = mask_of_lengths(x, lengths, layer._channel_dim)
    yield Slot(layer, row), Values(x, mask, layer._channel_dim % x.dim())


def _of_steps(
    layer: ours.RecurrentBatchNorm1d, x: Tensor, mask: Tensor | None, first: int
) -> Iterator[tuple[Slot, Values]]:
    if x.dim() == 2:
        x, mask = x.unsqueeze(1), None if mask is None else mask.unsqueeze(-1)
    if mask is not None:
        mask = mask.expand(x.shape[:2])
    for number, values in enumerate(x.unbind(1)):
        if first + number < layer.max_steps:
            valid = None if mask is None else mask[:, number]
            yield Slot(layer, first + number), Values(values, valid, 1)
