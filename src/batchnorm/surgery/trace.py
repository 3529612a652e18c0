"""Trace a model with torch.fx, and refuse where the graph would not do what the model does."""

import inspect
import operator
import random
from typing import Any

import torch
from torch import fx, nn

from batchnorm.errors import ArgumentError
from batchnorm.surgery.contents import Contents
from batchnorm.surgery.hidden import ACTIVATION_MODULES
from batchnorm.surgery.restored import restored

__all__ = ["UntraceableError", "expect_default", "trace"]


class UntraceableError(Exception):
    """A model whose graph cannot be had, or would compute something else; the message says why."""


def trace(model: nn.Module, example: Any = None) -> fx.Graph:
    """The graph of a model, in which training and evaluation are told apart when it runs.

    torch.fx bakes what Python computes into a graph. Here the model is traced in both modes: flags that differ become
    reads of the module's own flag. All else that a graph would lose is looked for, and refused.

    Args:
        model: traced in place, and put back as it was.
        example: a batch; arguments of forward that it does not give keep their defaults, and the graph refuses others.

    Returns:
        The graph; its nodes carry `nn_module_stack` in their meta.

    Raises:
        UntraceableError: torch.fx fails, or the graph would lose something.
    """
    if "forward" in vars(model):
        raise UntraceableError("its forward was replaced on the model itself")
    for path, module in model.named_modules():
        if not _is_leaf(module) and any(
            value for key, value in vars(module).items() if _runs_in_forward(key)
        ):
            raise UntraceableError(f"it has hooks on {path or 'the model itself'}, which a graph would lose")
    fixed = _defaults(model, example)
    with restored(model):
        graph = _trace_once(model.train(), fixed)
        evaluation = _trace_once(model.eval(), fixed)
        _unite(graph, evaluation)
    return graph


class _Tracer(fx.Tracer):
    """Records, beside the graph, the modes under which its nodes were made."""

    def __init__(self, fixed: frozenset[str]) -> None:
        super().__init__()
        self.fixed = fixed
        self.modes: set[tuple[Any, ...]] = set()
        self.proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, _: str) -> bool:
        return _is_leaf(m)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        if kind == "placeholder" and target in self.fixed:
            # Given as a proxy it would take the branch for an argument that nobody passes.
            super().create_proxy("call_function", expect_default, (proxy, args[0], target), {})
            return args[0]
        return proxy

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        self.modes.add(_modes())
        return super().create_node(*args, **kwargs)


def expect_default(value: Any, default: Any, name: str) -> None:
    """Refuse an argument for which the graph was not made; a step in the graph."""
    if value is not default and not (isinstance(value, type(default)) and value == default):
        raise ArgumentError(
            f"{name}: expected {default!r}, for which batch norm was inserted, got {value!r}; insert with an example "
            f"that gives {name}"
        )


def _defaults(model: nn.Module, example: Any) -> frozenset[str]:
    """Arguments of forward that have a default and that the example does not give."""
    try:
        signature = inspect.signature(model.forward)
        if isinstance(example, dict):
            given = set(signature.bind_partial(**example).arguments)
        else:
            args = example if isinstance(example, tuple | list) else () if example is None else (example,)
            given = set(signature.bind_partial(*args).arguments)
    except (TypeError, ValueError) as problem:
        raise UntraceableError(f"the example does not fit its forward: {problem}") from problem
    return frozenset(
        name for name, p in signature.parameters.items() if p.default is not p.empty and name not in given
    )


def _trace_once(model: nn.Module, fixed: frozenset[str]) -> fx.Graph:
    tracer = _Tracer(fixed)
    before = [(module, dict(vars(module))) for module in model.modules()]
    contents = Contents(model)
    draws = torch.get_rng_state(), random.getstate()
    try:
        graph = tracer.trace(model)
    except Exception as problem:
        text = " ".join(str(problem).split()).partition(". ")[0]
        raise UntraceableError(f"torch.fx: {type(problem).__name__}: {text}") from problem
    if tracer.modes - {_modes()}:
        raise UntraceableError("it switches gradients or autocast inside forward, which a graph would lose")
    if not torch.equal(torch.get_rng_state(), draws[0]) or random.getstate() != draws[1]:
        raise UntraceableError("it draws random numbers that a graph would freeze")
    for module, attributes in before:
        changed = {key for key, value in vars(module).items() if attributes.get(key, _ABSENT) is not value}
        if changed:
            raise UntraceableError(
                f"its forward changes or makes {sorted(changed)[0]!r}, which a graph would freeze"
            )
    if contents.changed():
        raise UntraceableError("its forward changes a list, dict or set, which a graph would not do")
    return graph


_ABSENT = object()


def _is_leaf(module: nn.Module) -> bool:
    inside_torch = type(module).__module__.startswith(("torch.nn", "torch.ao.nn"))
    container = isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
    return (inside_torch and not container) or isinstance(module, ACTIVATION_MODULES)


def _runs_in_forward(key: str) -> bool:
    return key in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _modes() -> tuple[Any, ...]:
    return torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")


def _unite(training: fx.Graph, evaluation: fx.Graph) -> None:
    """Turn the constants in which two graphs of a model differ into reads of its training flag, in the first graph."""
    ours, others = list(training.nodes), list(evaluation.nodes)
    same = {other: own for own, other in zip(ours, others, strict=False)}
    if len(ours) != len(others):
        raise UntraceableError("training and evaluation take different ways through it")
    for own, other in zip(ours, others, strict=True):
        if (own.op, own.target) != (other.op, other.target):
            raise UntraceableError("training and evaluation take different ways through it")
        own.args = tuple(_united(own, a, b, same) for a, b in _pairs(own.args, other.args))
        if set(own.kwargs) != set(other.kwargs):
            raise UntraceableError("training and evaluation take different ways through it")
        own.kwargs = {key: _united(own, value, other.kwargs[key], same) for key, value in own.kwargs.items()}


def _united(node: fx.Node, own: Any, other: Any, same: dict[fx.Node, fx.Node]) -> Any:
    if isinstance(own, tuple | list) and isinstance(other, tuple | list):
        return type(own)(_united(node, a, b, same) for a, b in _pairs(own, other))
    if isinstance(own, dict) and isinstance(other, dict) and set(own) == set(other):
        return {key: _united(node, value, other[key], same) for key, value in own.items()}
    if isinstance(other, fx.Node):
        other = same[other]
    if own is other or (type(own) is type(other) and own == other):
        return own
    if (own, other) not in ((True, False), (False, True)):
        raise UntraceableError(f"training and evaluation differ in more than a flag ({own!r} and {other!r})")
    with node.graph.inserting_before(node):
        flag = node.graph.create_node("get_attr", _flag_of(node))
        return flag if own is True else node.graph.call_function(operator.not_, (flag,))


def _pairs(own: Any, other: Any) -> list[tuple[Any, Any]]:
    if len(own) != len(other):
        raise UntraceableError("training and evaluation take different ways through it")
    return list(zip(own, other, strict=True))


def _flag_of(node: fx.Node) -> str:
    """Path of the training flag of the module whose forward made the node."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if node.op == "call_module":
        stack = stack[:-1]
    path = stack[-1][0] if stack else ""
    return f"{path}.training" if path else "training"
