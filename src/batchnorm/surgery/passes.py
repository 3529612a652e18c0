"""Pass over data and add up what the batch norms of a model are called with."""

from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, cast

import torch
from torch import Tensor, nn

import batchnorm.nn as ours
from batchnorm.errors import DataError
from batchnorm.surgery.batches import Batches
from batchnorm.surgery.layer_calls import Slot, Tally, buffers_of, values_of
from batchnorm.surgery.layers import is_batch_norm
from batchnorm.surgery.no_stats_update import no_stats_update
from batchnorm.surgery.restored import generators_kept

__all__ = ["Found", "at_once", "in_turn", "known", "write"]

_RENORM = (ours.BatchRenorm1d, ours.BatchRenorm2d, ours.BatchRenorm3d)

Found = dict[Slot, Tally]


def at_once(model: nn.Module, layers: Iterable[nn.Module], batches: Batches) -> Found:
    """Measure all layers in one pass, in which batch norms normalize by their batch.

    Args:
        model: in evaluation; its flags, hooks and buffers are the caller's to restore.
        layers: the batch norms to measure.
        batches: the data.

    Returns:
        What each slot saw.

    Raises:
        DataError: (ValueError) there is no batch.
    """
    with no_stats_update(model):
        for layer in model.modules():
            if is_batch_norm(layer):
                layer.train()
        watch = _Watch(layers)
        watch.run(model, batches)
    return watch.found


def in_turn(model: nn.Module, layers: Iterable[nn.Module], batches: Batches) -> Found:
    """Measure layers one after another, each with the statistics of those in front of it already written.

    Args:
        model: as for `at_once`.
        layers: the batch norms to measure.
        batches: the data, passed over as often as slots follow one another.

    Returns:
        What each slot saw.

    Raises:
        DataError: (ValueError) there is no batch, or the data are an iterator and one pass is not enough.
    """
    chosen = list(layers)
    if batches.only_once and (len(chosen) > 1 or isinstance(chosen[0], ours.RecurrentBatchNorm1d)):
        raise DataError(
            f"data is a {type(batches.data).__name__}, which gives its batches once, and the batch norms are measured "
            "one after another: give a list or a DataLoader, or upstream='batch'"
        )
    watch = _Watch(chosen)
    watch.run(model, batches, first=True)
    found: Found = {}
    for slots in _levels(watch.before):
        if not watch.found.keys() >= slots:
            watch.run(model, batches, slots)
        for slot in (slot for slot in watch.before if slot in slots and slot in watch.found):
            found[slot] = watch.found[slot]
            write(slot, found[slot])
    return found


def _levels(before: Mapping[Slot, set[Slot]]) -> Iterator[set[Slot]]:
    """Sets of slots, each behind those that its members follow."""
    order = TopologicalSorter(before)
    try:
        order.prepare()
    except CycleError:  # batches that take the same layers in different order; there is no right one
        yield from ({slot} for slot in before)
        return
    while order.is_active():
        ready = order.get_ready()
        yield set(ready)
        order.done(*ready)


class _Watch:
    """Hooks that add up what the batch norms are called with.

    `before` says of each slot which others were called for the first time just before it was, in any forward pass.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self.found: Found = {}
        self.before: dict[Slot, set[Slot]] = {}
        self._wanted: set[Slot] | None = None
        self._first = False
        self._last: set[Slot] = set()
        self._seen: set[Slot] = set()
        for layer in layers:
            layer.register_forward_hook(self._note, with_kwargs=True)

    def run(
        self, model: nn.Module, batches: Batches, wanted: set[Slot] | None = None, *, first: bool = False
    ) -> None:
        """Pass over the data once.

        Args:
            model: holds the layers.
            batches: the data.
            wanted: add these up; None for all.
            first: find what stands before what, and add up that before which nothing stands.

        Raises:
            DataError: there is no batch.
        """
        self.found, self._wanted, self._first = {}, wanted, first
        passed = 0
        with generators_kept(model):
            for _ in batches.run(model):
                passed += 1
                self._last, self._seen = set(), set()
        if not passed:
            raise DataError("data yields no batch; nothing was changed")

    def _note(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _: Any) -> None:
        calls = dict(values_of(layer, args, kwargs))
        if self._first:
            self._order(calls.keys())
        for slot, values in calls.items():
            if (self._first and self.before[slot]) or (self._wanted is not None and slot not in self._wanted):
                continue
            mean = buffers_of(slot).mean
            assert mean is not None
            self.found.setdefault(slot, Tally()).add(values.moments(), mean.dtype)

    def _order(self, slots: Iterable[Slot]) -> None:
        new = [slot for slot in slots if slot not in self._seen]
        for slot in new:
            self.before.setdefault(slot, set()).update(self._last)
            if self.before[slot]:
                self.found.pop(slot, None)
        self._seen.update(new)
        self._last = set(new) or self._last


def write(slot: Slot, tally: Tally) -> None:
    """Give a slot what was measured; a channel of which too little is known keeps its own.

    Args:
        slot: its buffers are changed in place.
        tally: what it saw.
    """
    if tally.moments is None:
        return
    stats, layer = buffers_of(slot), cast(Any, slot.layer)
    assert stats.mean is not None
    assert stats.var is not None
    second = tally.moments.unbiased_var()
    if isinstance(layer, _RENORM):
        second = torch.sqrt(tally.moments.var + layer.eps)
    usable = known(slot, tally)
    with torch.no_grad():
        for buffer, new in ((stats.mean, tally.moments.mean), (stats.var, second)):
            buffer.copy_(torch.where(usable, new.to(buffer.dtype), buffer))
        if stats.num_batches_tracked is not None and not isinstance(layer, _RENORM):
            stats.num_batches_tracked.fill_(tally.calls)


def known(slot: Slot, tally: Tally) -> Tensor:
    """The channels with at least two values, and statistics that are finite in the buffers' type."""
    moments, mean = tally.moments, buffers_of(slot).mean
    assert moments is not None
    assert mean is not None
    assert isinstance(moments.count, Tensor)
    finite = torch.isfinite(moments.mean.to(mean.dtype)) & torch.isfinite(
        moments.unbiased_var().to(mean.dtype)
    )
    return finite & (moments.count > 1)
