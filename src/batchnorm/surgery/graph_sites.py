"""Find the hidden activations of a traced model."""

import operator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from batchnorm.surgery.hidden import (
    ACTIVATION_MODULES,
    GATE_MODULES,
    is_activation_call,
    is_gate_call,
    is_in_place,
    is_product,
)

__all__ = ["GraphSite", "graph_sites", "is_overwriting", "is_pass_through", "use_values_in_place"]

_OPERATORS = frozenset({operator.mul, operator.imul})
_PASS_MODULES = (
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
_PASS_NAMES = frozenset(
    (
        *("flatten", "view", "reshape", "squeeze", "unsqueeze", "contiguous", "dropout"),
        *("dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "clone"),
    )
)


@dataclass(frozen=True)
class GraphSite:
    """A hidden activation.

    Args:
        input: the node whose value is activated.
        output: the node that gives the activated value.
        readers: the nodes of the activation that read the input, in order.
        path: path of the activation's module, or None where it is a function.
    """

    input: fx.Node
    output: fx.Node
    readers: tuple[fx.Node, ...]
    path: str | None


def graph_sites(graph: fx.Graph, model: nn.Module) -> list[GraphSite]:
    """The hidden activations in the order of their calls.

    Not hidden are gates (a sigmoid, tanh or softplus that is only multiplied with something else) and what becomes the
    model's output without another layer in between. `x * sigmoid(x)`, and its like with tanh and softplus, is an
    activation itself.
    """
    sites = []
    gates = _gates(graph, model)
    for node in graph.nodes:
        if _is_output(node, model):
            continue
        if _is_activation(node, model) and node not in gates:
            source = _input_of(node)
            if isinstance(source, fx.Node):
                path = str(node.target) if node.op == "call_module" else None
                sites.append(GraphSite(source, node, (node,), path))
        elif _is_product(node):
            first = _first_gate(node, gates)
            if first is not None:
                sites.append(GraphSite(_input_of(first), node, (first, node), None))
    return sites


def use_values_in_place(graph: fx.Graph, model: nn.Module) -> bool:
    """Let users of a value that an activation overwrites read the activation's value, which is the same tensor.

    Returns:
        Whether there were any: a norm put beside such an activation's module would miss them.
    """
    order = {node: number for number, node in enumerate(graph.nodes)}
    found = False
    for node in list(graph.nodes):
        source = _input_of(node)
        if (
            not _is_activation(node, model)
            or not isinstance(source, fx.Node)
            or not is_overwriting(node, model)
        ):
            continue
        later = [user for user in source.users if order[user] > order[node]]
        for user in later:
            user.replace_input_with(source, node)
        found = found or bool(later)
    return found


def is_pass_through(node: fx.Node, model: nn.Module) -> bool:
    """Whether a node's value is its first argument's, up to shape and dropout."""
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), _PASS_MODULES)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name in _PASS_NAMES


def _is_activation(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), ACTIVATION_MODULES)
    if node.op in ("call_function", "call_method"):
        return is_activation_call(node.target, node.args, node.kwargs)
    return False


def _is_gate(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), GATE_MODULES)
    return node.op in ("call_function", "call_method") and is_gate_call(node.target)


def _gates(graph: fx.Graph, model: nn.Module) -> set[fx.Node]:
    """Gates, and what only feeds gates: the softplus in x * tanh(softplus(x))."""
    gates: set[fx.Node] = set()
    for node in reversed(list(graph.nodes)):
        if _is_gate(node, model) and node.users and all(_is_product(u) or u in gates for u in node.users):
            gates.add(node)
    return gates


def _is_product(node: fx.Node) -> bool:
    return node.op in ("call_function", "call_method") and is_product(node.target, _OPERATORS)


def _first_gate(node: fx.Node, gates: set[fx.Node]) -> fx.Node | None:
    """The gate that reads x, where the product is x times gates of x alone; else None."""
    for value, gate in (node.args[:2], node.args[1::-1]):
        while isinstance(gate, fx.Node) and gate in gates:
            if _input_of(gate) is value:
                return gate
            gate = _input_of(gate)
    return None


def _input_of(node: fx.Node) -> Any:
    return node.args[0] if node.args else node.kwargs.get("input")


def _is_output(node: fx.Node, model: nn.Module) -> bool:
    return any(
        user.op == "output" or (is_pass_through(user, model) and _is_output(user, model))
        for user in node.users
    )


def is_overwriting(node: fx.Node, model: nn.Module) -> bool:
    """Whether an activation's node works in place."""
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    function = node.target
    return function is not F.prelu and is_in_place(function, node.kwargs, node.args)
