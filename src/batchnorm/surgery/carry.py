"""The one table through which state moves from one norm layer to another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from batchnorm.ops import wide_dtype

__all__ = ["FIELDS", "Field", "carry", "give_back", "peculiarities"]

Slot = Literal["parameter", "buffer", "setting", "hooks"]


@dataclass(frozen=True)
class Field:
    """A piece of a layer's state.

    Args:
        name: as in the layer.
        slot: where the layer keeps it. Parameters and buffers move as the very tensors, so device, type,
            requires_grad and gradients go with them and optimizers keep working; hooks move as the very dictionaries,
            so their handles do too.
        everywhere: whether every layer that has it takes it, or only another batch norm.
    """

    name: str
    slot: Slot
    everywhere: bool = True


FIELDS: tuple[Field, ...] = (
    Field("weight", "parameter"),
    Field("bias", "parameter"),
    Field("running_mean", "buffer", everywhere=False),
    Field("running_var", "buffer", everywhere=False),
    Field("running_std", "buffer", everywhere=False),
    Field("num_batches_tracked", "buffer", everywhere=False),
    Field("_non_persistent_buffers_set", "setting", everywhere=False),
    Field("num_features", "setting", everywhere=False),
    Field("eps", "setting"),
    Field("momentum", "setting", everywhere=False),
    Field("affine", "setting", everywhere=False),
    Field("track_running_stats", "setting", everywhere=False),
    Field("process_group", "setting", everywhere=False),
    Field("virtual_batch_size", "setting", everywhere=False),
    Field("r_max", "setting", everywhere=False),
    Field("d_max", "setting", everywhere=False),
    Field("warmup", "setting", everywhere=False),
    Field("training", "setting"),
    Field("_is_full_backward_hook", "setting"),
    Field("_backward_pre_hooks", "hooks"),
    Field("_backward_hooks", "hooks"),
    Field("_forward_hooks", "hooks"),
    Field("_forward_hooks_with_kwargs", "hooks"),
    Field("_forward_hooks_always_called", "hooks"),
    Field("_forward_pre_hooks", "hooks"),
    Field("_forward_pre_hooks_with_kwargs", "hooks"),
    Field("_state_dict_hooks", "hooks"),
    Field("_state_dict_pre_hooks", "hooks"),
    Field("_load_state_dict_pre_hooks", "hooks"),
    Field("_load_state_dict_post_hooks", "hooks"),
)
_NAMES = {field.name for field in FIELDS}
_STATISTICS = ("running_mean", "running_var", "running_std")
# The dictionaries behind the fields, what a lazy layer holds to undo its own hooks, what belongs to a running step of
# batch renormalization, and what only layers of one family know of themselves: these stay.
_STAYING = {"_parameters", "_buffers", "_modules", "_load_hook", "_initialize_hook", "_first_passes"}
_STAYING |= {"num_domains", "_untrained"}


def carry(
    source: nn.Module,
    target: nn.Module,
    *,
    between_batch_norms: bool,
    narrow: bool = False,
    domain: int | None = None,
) -> None:
    """Move the state of a batch norm to the layer that takes its place.

    Args:
        source: the batch norm; its hooks and tensors are those of the target afterwards.
        target: the new layer, made with the same channels and the same of weight and bias.
        between_batch_norms: whether the target is a batch norm too, and takes the running statistics.
        narrow: whether the target needs running statistics of its weight's type, as torch's operator does; without it
            they are widened to float32 at least.
        domain: of a source with several, the one whose statistics go along; None for all of them, where the target has
            as many, or the only one.
    """
    own_hooks = _drop_lazy_hooks(source), _drop_lazy_hooks(target)
    for field in FIELDS:
        if field.everywhere or between_batch_norms:
            _move(field, source, target)
    if own_hooks[1]:
        _add_lazy_hooks(target)
    if between_batch_norms:
        _translate_spread(source, target)
        _fit_domains(source, target, domain)
        _cast_statistics(target, narrow=narrow)
    # What users hang on a layer (a name, a group of a sharding library) belongs to its place in the model.
    for name, value in vars(source).items():
        if name not in _NAMES | _STAYING and name not in vars(target):
            vars(target)[name] = value


def give_back(source: nn.Module, target: nn.Module) -> None:
    """Undo a `carry` as far as the source lost anything: the hooks by which a lazy layer waits for its input."""
    _drop_lazy_hooks(target)
    if "_initialize_hook" in vars(source):
        _add_lazy_hooks(source)


def peculiarities(layer: nn.Module, plain: tuple[type[nn.Module], ...]) -> str | None:
    """Why a batch norm cannot be exchanged without losing something of it, in words; None where it can.

    Args:
        layer: a batch norm.
        plain: the classes whose whole behaviour is known.

    Returns:
        The first reason: a class of its own, a parametrization, a replaced method, or further tensors or modules.
    """
    kind = type(layer)
    if kind not in plain:
        if torch.nn.utils.parametrize.is_parametrized(layer):
            return "it is parametrized (remove_parametrizations undoes that)"
        return f"its class {kind.__module__}.{kind.__qualname__} may compute something else"
    replaced = sorted(name for name in vars(layer) if callable(getattr(kind, name, None)))
    if replaced:
        return f"its {replaced[0]} was replaced on the layer itself"
    if getattr(layer, "_compiled_call_impl", None) is not None:
        return "it was compiled by itself"
    further = [name for name in (*layer._parameters, *layer._buffers, *layer._modules) if name not in _NAMES]
    if further:
        return f"it holds {further[0]!r}, which its class does not (prune.remove undoes pruning)"
    return None


def _move(field: Field, source: nn.Module, target: nn.Module) -> None:
    if field.slot == "parameter":
        _hand_over_parameter(field.name, source, target)
    elif field.slot == "buffer":
        _hand_over(field.name, source._buffers, target._buffers)
    elif field.name in vars(source) and field.name in vars(target):
        vars(target)[field.name] = vars(source)[field.name]


def _hand_over_parameter(name: str, source: nn.Module, target: nn.Module) -> None:
    """A frozen batch norm has buffers instead: the memory is the same, and what leaves it trains if it did before."""
    held = source._parameters if name in source._parameters else source._buffers
    if name not in held:
        return
    given: Any = held[name]
    if name in target._parameters:
        if given is not None and not isinstance(given, nn.Parameter):
            given = nn.Parameter(given, requires_grad=name not in vars(source).get("_untrained", ()))
        target._parameters[name] = given
    elif name in target._buffers:
        target._buffers[name] = None if given is None else given.detach()
        if isinstance(given, nn.Parameter) and not given.requires_grad:
            vars(target)["_untrained"] = vars(target).get("_untrained", frozenset()) | {name}


def _hand_over(name: str, source: Mapping[str, Any], target: dict[str, Any]) -> None:
    if name in source and name in target:
        target[name] = source[name]


def _translate_spread(source: nn.Module, target: nn.Module) -> None:
    """Batch renormalization keeps running_std = sqrt(running_var + eps); evaluation is the same by either."""
    var, std = source._buffers.get("running_var"), source._buffers.get("running_std")
    eps: Any = source.eps
    if var is not None and "running_std" in target._buffers:
        target._buffers["running_std"] = (var.to(wide_dtype(var)) + eps).sqrt().to(_wide(var))
    elif std is not None and "running_var" in target._buffers:
        target._buffers["running_var"] = (std.to(wide_dtype(std)).square() - eps).clamp(min=0).to(_wide(std))


def _fit_domains(source: Any, target: Any, domain: int | None) -> None:
    """One set of statistics becomes that of each domain, and of several sets one is taken."""
    held, wanted = (vars(layer).get("num_domains") for layer in (source, target))
    if held == wanted and (held is None or domain is None):
        return
    for name in (*_STATISTICS, "num_batches_tracked"):
        buffer = target._buffers.get(name)
        if buffer is None:
            continue
        row = buffer if held is None else buffer[domain or 0]
        # A view would keep every other domain's memory alive, and in checkpoints too.
        target._buffers[name] = row.clone() if wanted is None else row.expand(wanted, *row.shape).clone()


def _cast_statistics(layer: nn.Module, *, narrow: bool) -> None:
    weight = layer._parameters.get("weight")
    for name in _STATISTICS:
        buffer = layer._buffers.get(name)
        if buffer is None or is_lazy(buffer):
            continue
        dtype = (
            weight.dtype if narrow and weight is not None else _wide(buffer) if not narrow else buffer.dtype
        )
        layer._buffers[name] = buffer.to(dtype)


def _wide(buffer: Tensor) -> torch.dtype:
    return torch.float32 if buffer.dtype.itemsize < 4 else buffer.dtype


def _drop_lazy_hooks(layer: Any) -> bool:
    """Take off the hooks by which a lazy layer waits for its first input; they are bound to that very layer."""
    if "_initialize_hook" not in vars(layer):
        return False
    layer._load_hook.remove()
    layer._initialize_hook.remove()
    return True


def _add_lazy_hooks(layer: Any) -> None:
    layer._load_hook = layer._register_load_state_dict_pre_hook(layer._lazy_load_hook)
    layer._initialize_hook = layer.register_forward_pre_hook(layer._infer_parameters, with_kwargs=True)
