"""Find in-place activations of a traced model whose effect reaches others through shared memory."""

import operator

from torch import fx, nn

__all__ = ["is_reached_by_memory"]

_VIEW_MODULES = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
# What these give is, or may be, a view of their input: reshape where memory allows, dropout in evaluation.
_VIEWS = frozenset(
    (
        *(
            "flatten",
            "view",
            "view_as",
            "reshape",
            "reshape_as",
            "squeeze",
            "unsqueeze",
            "contiguous",
            "detach",
        ),
        *(
            "dropout",
            "dropout1d",
            "dropout2d",
            "dropout3d",
            "alpha_dropout",
            "to",
            "type_as",
            "float",
            "double",
        ),
        *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "ravel", "unflatten"),
        *(
            "expand",
            "expand_as",
            "narrow",
            "select",
            "diagonal",
            "unfold",
            "getitem",
            "__getitem__",
            "as_strided",
        ),
    )
)
_SPLITTERS = frozenset(("chunk", "split", "tensor_split", "unbind"))
_VIEW_ATTRIBUTES = frozenset(("T", "mT", "H", "mH", "data"))
_MEASURES = frozenset(("size", "dim", "numel", "stride", "is_floating_point", "element_size"))


def is_reached_by_memory(node: fx.Node, source: fx.Node, model: nn.Module) -> bool:
    """Whether something reads later what an activation overwrote, and not by way of its output.

    Args:
        node: an activation that works in place; users of its very input that come later read its output already.
        source: its input.
        model: the traced model.
    """
    order = {other: number for number, other in enumerate(node.graph.nodes)}
    origins: dict[fx.Node, tuple[fx.Node, ...]] = {}
    for other in node.graph.nodes:
        base = None if other is node else _base(other, model)
        origins[other] = (*origins.get(base, (base,)), other) if base is not None else (other,)
    mine = origins[source]
    for other, origin in origins.items():
        if origin[0] is not mine[0] or _are_apart(origin, mine):
            continue
        if any(order[user] > order[node] and not _is_measure(user) for user in other.users):
            return True
    return False


def _base(node: fx.Node, model: nn.Module) -> fx.Node | None:
    """The value whose memory a node's value shares, as far as the node's kind tells."""
    first = node.args[0] if node.args else node.kwargs.get("input")
    if not isinstance(first, fx.Node):
        return None
    if node.op == "call_module":
        layer = model.get_submodule(str(node.target))
        return first if isinstance(layer, _VIEW_MODULES) or getattr(layer, "inplace", False) else None
    if node.target is getattr:
        return first if node.args[1] in _VIEW_ATTRIBUTES else None
    name = _name(node)
    in_place = name.endswith("_") and not name.endswith("__")
    in_place = in_place or bool(node.kwargs.get("inplace")) or node.target in _IN_PLACE_OPERATORS
    return first if name in _VIEWS | _SPLITTERS or in_place else None


_IN_PLACE_OPERATORS = frozenset((operator.iadd, operator.isub, operator.imul, operator.itruediv))


def _are_apart(one: tuple[fx.Node, ...], other: tuple[fx.Node, ...]) -> bool:
    """Whether two values are different pieces of one that was split."""
    pairs = list(zip(one, other, strict=False))
    shared = next((number for number, (a, b) in enumerate(pairs) if a is not b), len(pairs))
    if shared in (0, len(pairs)) or _name(one[shared - 1]) not in _SPLITTERS:
        return False
    return one[shared].args[1:] != other[shared].args[1:]


def _is_measure(node: fx.Node) -> bool:
    if node.target is getattr:
        return node.args[1] not in _VIEW_ATTRIBUTES
    return node.op in ("call_function", "call_method") and _name(node) in _MEASURES


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
