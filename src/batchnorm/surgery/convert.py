"""Exchange the batch norms of a model for other layers, and back."""

import warnings
from collections.abc import Container, Mapping
from typing import Any

from torch import nn

import batchnorm.nn as ours
from batchnorm.errors import ArgumentError, ArgumentTypeError, ConversionError, ConversionWarning
from batchnorm.nn.bank import whole_number
from batchnorm.surgery.carry import carry, give_back, peculiarities
from batchnorm.surgery.kinds import KINDS, replacement
from batchnorm.surgery.layers import is_batch_norm
from batchnorm.surgery.reach import reached, touched
from batchnorm.surgery.replace import copied, exchange, refuse_scripted
from batchnorm.surgery.restored import materialise, restored
from batchnorm.surgery.twins import DONE, KEEPS_FUNCTION, LAZY, NDIM, OPTIONS, PLAIN, SYNCED, twin

__all__ = ["TARGETS", "convert", "convert_"]

# Layers that a warning names.
_SHOWN = 3

TARGETS: tuple[str, ...] = (*DONE, *KINDS)
_OPTIONS = OPTIONS | KINDS


def convert(model: nn.Module, to: str = "batchnorm", *, example: Any = None, **options: Any) -> nn.Module:
    """Return a copy of the model with its batch norms exchanged.

    Between "batchnorm" (this package's layers), "torch" (torch.nn's) and "sync" (SyncBatchNorm) the whole state goes
    along: the same state_dict, and in one process the same outputs up to rounding. "ghost", "renorm", "frozen" and
    "domain" take the whole state too, and compute the same in evaluation; back from "frozen", weight and bias are
    parameters again, trained unless their requires_grad was False. Each domain starts with the layer's statistics and
    counter; on the way back there is one domain, or the option `domain` picks whose statistics go along. The other
    layers take over weight, bias and eps, and every hook and flag, but not the running statistics.

    Exchanged are the registered layers, wherever modules, lists, tuples, dict values, namespaces and the like hold
    them. What a closure or a global holds cannot be seen: with an example the model is run afterwards and refused if
    it still uses an old layer; without one such a layer stays in use unnoticed.

    Args:
        model: not changed. A layer at several places stays one layer.
        to: "batchnorm" (a synchronised layer becomes one only where an example tells the rank of its input); "torch"
            (running statistics take the weight's type, which torch's operator needs); "sync"; "ghost" (virtual
            batches); "renorm" (batch renormalization; its schedule goes on at the counter); "frozen" (running
            statistics in training too; nothing is trained); "domain" (running statistics of each domain); "group"
            (gcd(32, C) groups); "layer" (GroupNorm(1, C), LayerNorm where (N, C) or (N, *, C) is known); "instance";
            "local" (LocalResponseNorm, images only); "none" (Identity). Default "batchnorm".
        example: a batch (tuple: positional arguments, dict: named ones), run without a trace to learn whether a
            layer sees (N, C), (N, C, L) or more, to give lazy layers their shapes, and to see that no old layer is
            still in use. Default None.
        options: "sync": process_group; "ghost": virtual_batch_size; "renorm": r_max, d_max, warmup; "domain":
            num_domains, which has no default; "group": num_groups; "local": size, alpha, beta, k. Every batch norm
            takes domain, from 0, needed where the model's layers are for several domains.

    Returns:
        The new model.

    Raises:
        ConversionError: an unknown target or option; a target that has no meaning for a layer; a layer of several
            domains and no choice among them; a layer that has not seen an input yet; an old layer still in use on the
            example, or an example on which the model raises; for targets that change what is computed, a batch norm of
            a class of its own. "batchnorm", "torch" and "sync" leave such a layer as it is, and warn.

    Example:
        >>> from torch import nn
        >>> convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), to="group")[1].num_groups
        8

    Source:
        The groups are those of Wu & He 2018, "Group Normalization".
    """
    _check_target(to, options)
    return _convert(copied(model, "convert"), to, example, options, original=model)


def convert_(model: nn.Module, to: str = "batchnorm", *, example: Any = None, **options: Any) -> nn.Module:
    """Exchange the batch norms of the model itself; see `convert`.

    Optimizers that hold its parameters stay valid, and so do handles of hooks.

    Args:
        model: changed in place, unless an error is raised (then lazy layers may have their shapes all the same).
        to: as for `convert`.
        example: as for `convert`.
        options: as for `convert`.

    Returns:
        The model; a model that is itself a batch norm cannot change in place, there the new layer is returned.

    Raises:
        ConversionError: as for `convert`.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8))
        >>> convert_(model, to="none") is model
        True
    """
    _check_target(to, options)
    refuse_scripted(model)
    return _convert(model, to, example, options)


def _convert(
    model: nn.Module, to: str, example: Any, options: dict[str, Any], original: nn.Module | None = None
) -> nn.Module:
    if example is not None:
        materialise(model, example)
    domain = options.pop("domain", None)
    layers = _exchangeable(model, to, renewed=to in DONE and bool(options))
    # A function that the model holds is not copied with it, and may run layers of the original.
    with restored(model if original is None else original):
        seen = reached(model, layers.values(), example) if layers and example is not None else {}
    ndims = {layer: next(iter(dims)) for layer, dims in seen.items() if len(dims) == 1}
    layers = _of_known_rank(layers, ndims, to)
    new = {layer: _counterpart(layer, path, to, ndims.get(layer), options) for path, layer in layers.items()}
    if to in DONE:
        for path, layer in layers.items():
            _check_domain(layer, new[layer], path, to, domain)
    for layer, target in new.items():
        chosen = {name: vars(target)[name] for name in options if name in OPTIONS.get(to, ())}
        carry(layer, target, between_batch_norms=is_batch_norm(target), narrow=to == "torch", domain=domain)
        vars(target).update(chosen)
    result = exchange(model, new)
    if example is None or not layers:
        return result
    try:
        lost = _refuse_old(result, to, layers, new, seen, example, original)
    except BaseException:
        exchange(result, {target: layer for layer, target in new.items()})
        for layer, target in new.items():
            give_back(layer, target)
        raise
    if lost:
        warnings.warn(
            f"convert(to={to!r}): on the example the model ran {_at(lost[0])} before and does not run it now",
            ConversionWarning,
            stacklevel=3,
        )
    return result


def _refuse_old(
    model: nn.Module,
    to: str,
    layers: dict[str, nn.Module],
    new: dict[nn.Module, nn.Module],
    seen: Container[nn.Module],
    example: Any,
    original: nn.Module | None,
) -> list[str]:
    """Raise where the model still uses what was exchanged; else the paths that it ran and does not run now."""
    places = {layer: path for path, layer in layers.items()}
    if original is not None:
        places |= {original.get_submodule(path): path for path in layers}
    used, running = touched(model, places, new.values(), example)
    for layer, path in places.items():
        if layer in used:
            raise ConversionError(
                f"to={to!r}: on the example the model still uses the old layer at {_at(path)}: it is reached through "
                "something that convert cannot see, e.g. a closure; reach it through an attribute of the model"
            )
    if running is None:
        return []
    return [path for path, layer in layers.items() if layer in seen and new[layer] not in running]


def _check_target(to: str, options: dict[str, Any]) -> None:
    if to not in TARGETS:
        raise ConversionError(f"to: unknown target {to!r}; known: {', '.join(TARGETS)}")
    known = (*_OPTIONS.get(to, ()), *(("domain",) if to in DONE else ()))
    for name in options:
        if name not in known:
            raise ConversionError(
                f"to={to!r} has no option {name!r}; its options: {', '.join(known) or 'none'}"
            )
    if to == "domain" and "num_domains" not in options:
        raise ConversionError("to='domain' needs num_domains, how many domains each layer is for")


def _exchangeable(model: nn.Module, to: str, renewed: bool) -> dict[str, nn.Module]:
    """The layers to exchange, by path; what cannot be is refused, or left with a warning where the function stays."""
    done = () if renewed else DONE.get(to, ())
    found, left = {}, []
    for path, layer in model.named_modules():
        if not is_batch_norm(layer) or type(layer) in done:
            continue
        reason = peculiarities(layer, PLAIN)
        if reason is None:
            found[path] = layer
        elif to in KEEPS_FUNCTION:
            left.append(f"{_at(path)} ({reason})")
        else:
            raise ConversionError(f"to={to!r}: the batch norm at {_at(path)} cannot be exchanged: {reason}")
    _warn_of(left, to)
    return found


def _of_known_rank(
    layers: dict[str, nn.Module], ndims: Mapping[nn.Module, int], to: str
) -> dict[str, nn.Module]:
    """Without the synchronised layers for which there is a class only once the rank of their input is known."""
    if to != "batchnorm":
        return layers
    found = {
        path: layer
        for path, layer in layers.items()
        if not isinstance(layer, SYNCED) or twin(type(layer), to, ndims.get(layer))
    }
    reason = "whether its input is 1d, 2d or 3d is not known; pass example=a batch"
    _warn_of([f"{_at(path)} ({reason})" for path in layers if path not in found], to)
    return found


def _warn_of(left: list[str], to: str) -> None:
    if len(left) > _SHOWN:
        left[_SHOWN:] = [f"and {len(left) - _SHOWN} more"]
    if left:
        warnings.warn(
            f"convert(to={to!r}) left as they are: {'; '.join(left)}", ConversionWarning, stacklevel=5
        )


def _counterpart(layer: Any, path: str, to: str, ndim: int | None, options: dict[str, Any]) -> nn.Module:
    kind = type(layer)
    if kind in LAZY and to not in ("batchnorm", "torch", "none"):
        raise ConversionError(
            f"to={to!r}: {_at(path)} has not seen an input; run one batch through the model first"
        )
    if to in DONE:
        target = twin(kind, to, ndim)
        if target is None:
            raise ConversionError(f"to={to!r}: {_at(path)} is a {kind.__name__}, {_why_no_twin(kind, to)}")
        features = () if kind in LAZY else (layer.num_features,)
        try:  # On the meta device nothing is allocated or drawn; every tensor is replaced by the layer's own.
            return target(
                *features,
                eps=layer.eps,
                momentum=layer.momentum,
                affine=layer.weight is not None,
                track_running_stats=layer.track_running_stats,
                device="meta",
                **options,
            )
        except (ArgumentError, ArgumentTypeError) as problem:
            raise ConversionError(f"to={to!r}, layer {_at(path)}: {problem}") from None
    try:
        return replacement(
            to,
            layer.num_features,
            ndim=NDIM.get(kind, ndim),
            channels_last=kind is ours.ChannelsLastBatchNorm,
            affine=layer.weight is not None,
            device="meta",
            **options,
        )
    except ConversionError as problem:
        raise ConversionError(f"to={to!r}, layer {_at(path)}: {problem}") from None


def _check_domain(layer: nn.Module, target: nn.Module, path: str, to: str, domain: Any) -> None:
    """Raise unless it is clear which domain's statistics a layer that has some passes on."""
    held = vars(layer).get("num_domains")
    if held is None:
        return
    if domain is None and held not in (1, vars(target).get("num_domains")):
        raise ConversionError(
            f"to={to!r}: {_at(path)} has statistics of {held} domains; choose whose go along, e.g. domain=0"
        )
    try:
        whole_number("domain", 0 if domain is None else domain, below=held)
    except (ArgumentError, ArgumentTypeError) as problem:
        raise ConversionError(f"to={to!r}, layer {_at(path)}: {problem}") from None


def _why_no_twin(kind: type[nn.Module], to: str) -> str:
    if kind in SYNCED:
        return "and whether its input is 1d, 2d or 3d is not known; pass example=a batch"
    whose = {"torch": "torch has no batch norm", "sync": "SyncBatchNorm has no statistics"}
    return f"and {whose.get(to, f'there is no {to!r} batch norm')} over the last dimension"


def _at(path: str) -> str:
    return repr(path) if path else "the model itself"
