"""Measure the running statistics of a model's batch norms anew, exactly."""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

import batchnorm.nn as ours
from batchnorm.errors import ArgumentError, ArgumentTypeError, RecalibrationWarning
from batchnorm.surgery.batches import Batches, Forward
from batchnorm.surgery.layer_calls import Slot, buffers_of
from batchnorm.surgery.layers import is_batch_norm
from batchnorm.surgery.passes import Found, at_once, in_turn, known, write
from batchnorm.surgery.replace import copied, refuse_scripted
from batchnorm.surgery.restored import restored

__all__ = ["UPSTREAM", "recalibrate", "recalibrate_"]

UPSTREAM = ("population", "batch")

_FROZEN = (ours.FrozenBatchNorm1d, ours.FrozenBatchNorm2d, ours.FrozenBatchNorm3d)
# Layers that a warning names.
_SHOWN = 3


def recalibrate(
    model: nn.Module,
    data: Any,
    batches: int | None = None,
    *,
    upstream: str = "population",
    forward: Forward | None = None,
) -> nn.Module:
    """Return a copy of the model whose running statistics are those of the data, exactly.

    running_mean = sum(x) / n;  running_var = sum((x - running_mean)^2) / (n - 1), a channel each

    The sums are over all n values that the layer saw at valid positions, in float64, however they were cut into
    batches: batches of one sample, ragged ones or a single one give the same. Everything but the batch norms runs as
    in evaluation, so that dropout is off.

    What a layer sees depends on how the batch norms in front of it normalize:

    "population": by the statistics that this call gives them, as they will in evaluation. The layers are measured one
    after another, in the order in which they are called, with as many passes over the data as layers follow one
    another. Then every layer's statistics are those of its own inputs in evaluation, and the split does not matter.
    "batch": by their batch, as in training; one pass for all layers. What torch.optim.swa_utils.update_bn and PreciseBN
    do, but pooled: the layers behind the first see what training showed them, which evaluation does not give them where
    batches are small.

    Measured are torch's batch norms, this package's, and classes made from them, if they have running statistics.
    Frozen layers stay as they are. BatchRenorm gets running_std = sqrt(biased variance + eps), GhostBatchNorm the
    statistics of all samples. Of DomainBatchNorm only the domains that the calls name change, of RecurrentBatchNorm1d
    the steps that they reach. A layer that is called several times a pass has the values of all calls; where a later
    call depends on an earlier one, as when one layer normalizes every step, it was seen with the old statistics.
    num_batches_tracked becomes the number of calls measured, so that with momentum=None the average goes on rightly; of
    BatchRenorm, where it is the place in the schedule, it stays.

    A channel whose mean or variance in a call is not finite, in the buffer's type, leaves that call out; one with fewer
    than two values stays as it was. Layers that were not called stay as they were. A warning names them.

    Args:
        model: not changed. Of a DistributedDataParallel or DataParallel what is inside is run, on this process's data;
            nothing is sent to other processes, except by a SyncBatchNorm with upstream="batch".
        data: an iterable of batches, such as a DataLoader; a lone tensor or dict is one batch. Every pass starts from
            the same random state, so that a loader which shuffles by torch's generator gives the same each time.
        batches: use at most so many. Default None, all.
        upstream: "population" or "batch". Default "population".
        forward: called as forward(model, batch), with the tensors of the batch on the model's device. Default None: the
            input is the batch, or the first item of a tuple or list; a dict holds named inputs.

    Returns:
        The new model. Of the given one, and of the random state, nothing has changed.

    Raises:
        ArgumentTypeError: (TypeError) an argument of another type.
        ArgumentError: (ValueError) batches is not positive, upstream unknown, a lazy layer has not seen an input, or no
            batch norm is called on the data.
        DataError: (ValueError) the data yield no batch, one of a type that nothing is known of, or are an iterator that
            several passes would need.
        BatchTooSmallError: (ValueError) with upstream="batch", a batch with one value a channel.
        ConversionError: (ValueError) the model is TorchScript, or cannot be copied.

    Example:
        >>> import torch, batchnorm as bn
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(1))
        >>> x = torch.tensor([[0.0], [2.0], [7.0]])
        >>> new = bn.recalibrate(model, x.split([2, 1]))
        >>> new[0].running_mean, new[0].running_var
        (tensor([3.]), tensor([13.]))

    Source: Wu and Johnson 2021, arXiv:2105.07576, section 3, and equation 4 of Ioffe and Szegedy 2015 for the
    variance; pooled as in `batchnorm.moments.pool`.
    """
    _check(model, upstream)
    return _recalibrate(copied(model, "recalibrate"), Batches(data, batches, forward), upstream)


def recalibrate_(
    model: nn.Module,
    data: Any,
    batches: int | None = None,
    *,
    upstream: str = "population",
    forward: Forward | None = None,
) -> nn.Module:
    """Measure the running statistics of the model itself anew; see `recalibrate`.

    Nothing else of the model changes. If anything raises, such as the loader, everything is as it was, bit for bit.

    Args:
        model: changed in place.
        data: as for `recalibrate`, as are batches, upstream and forward.

    Returns:
        The model.

    Raises:
        As `recalibrate`.

    Example:
        >>> import torch, batchnorm as bn
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), bn.BatchNorm1d(4))
        >>> loader = [(torch.randn(8, 3), torch.zeros(8)) for _ in range(5)]
        >>> bn.recalibrate_(model, loader) is model, model[1].num_batches_tracked
        (True, tensor(5))

    Source: as `recalibrate`.
    """
    _check(model, upstream)
    refuse_scripted(model)
    return _recalibrate(model, Batches(data, batches, forward), upstream)


def _check(model: Any, upstream: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"recalibrate() takes an nn.Module, got {type(model).__name__}")
    if upstream not in UPSTREAM:
        raise ArgumentError(f"upstream: expected {' or '.join(UPSTREAM)}, got {upstream!r}")


def _recalibrate(model: nn.Module, batches: Batches, upstream: str) -> nn.Module:
    layers = _layers_of(model)
    if not layers:
        _warn("the model has no batch norm with running statistics")
        return model
    inner = model.module if isinstance(model, DataParallel | DistributedDataParallel) else model
    with restored(model), _uncompiled():
        inner.eval()
        passes = in_turn if upstream == "population" else at_once
        found = passes(inner, layers, batches)
    if not found:
        raise ArgumentError(
            "data: running the model on it called none of its batch norms; does forward run the model that it is given?"
        )
    for slot, tally in found.items():
        write(slot, tally)
    for remark in _remarks(layers, found):
        _warn(remark)
    return model


def _layers_of(model: nn.Module) -> dict[nn.Module, str]:
    layers: dict[nn.Module, str] = {}
    for path, layer in model.named_modules():
        if any(is_lazy(t) for t in (*layer.parameters(recurse=False), *layer.buffers(recurse=False))):
            raise ArgumentError(
                f"recalibrate() needs layers that have seen an input; {path or 'the model'} is a lazy layer that has "
                "not: run the model once before"
            )
        if not is_batch_norm(layer) or isinstance(layer, _FROZEN):
            continue
        name = repr(path) if path else "the model itself"
        stats = buffers_of(Slot(layer, None))
        if stats.mean is not None and stats.var is not None:
            layers[layer] = name
    return layers


def _uncompiled() -> contextlib.AbstractContextManager[Any]:
    """What torch.compile made runs as it was written within it: compiled code passes by hooks that came later."""
    compiles = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if compiles else contextlib.nullcontext()


def _remarks(layers: dict[nn.Module, str], found: Found) -> Iterator[str]:
    called = {slot.layer for slot in found}
    idle = [name for layer, name in layers.items() if layer not in called]
    if idle:
        yield f"not called on the data, statistics kept: {_listed(idle)}"
    spoiled = [
        f"{_name(slot, layers)} ({tally.spoiled} of {tally.calls} calls)"
        for slot, tally in found.items()
        if tally.spoiled
    ]
    if spoiled:
        yield f"values that are not finite were left out, with their call and channel: {_listed(spoiled)}"
    kept = [
        _name(slot, layers)
        for slot, tally in found.items()
        if tally.moments is None or not known(slot, tally).all()
    ]
    if kept:
        yield f"fewer than two finite values in some channel, whose statistics are kept: {_listed(kept)}"


def _name(slot: Slot, layers: dict[nn.Module, str]) -> str:
    if slot.row is None:
        return layers[slot.layer]
    unit = "step" if isinstance(slot.layer, ours.RecurrentBatchNorm1d) else "domain"
    return f"{layers[slot.layer]}, {unit} {slot.row}"


def _listed(names: list[str]) -> str:
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return "; ".join([*names[:_SHOWN], *more])


def _warn(message: str) -> None:
    warnings.warn(f"recalibrate: {message}", RecalibrationWarning, stacklevel=4)
