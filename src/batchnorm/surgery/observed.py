"""Find the hidden activations of a model that cannot be traced, by watching it run."""

import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from batchnorm.errors import ConversionError, ConversionWarning
from batchnorm.surgery.hidden import (
    ACTIVATION_MODULES,
    GATE_MODULES,
    is_activation_call,
    is_gate_call,
    is_product,
)
from batchnorm.surgery.layouts import Layouts, Spot, spot_of
from batchnorm.surgery.restored import restored, run

__all__ = ["observed_sites"]

_PASSING = frozenset(
    (
        *("flatten", "view", "reshape", "squeeze", "unsqueeze", "contiguous", "dropout"),
        *("dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "clone"),
    )
)


def observed_sites(model: nn.Module, placement: str, example: Any, reason: str) -> dict[str, Spot]:
    """The modules that are hidden activations, by path, with the spots of their inputs or outputs.

    Args:
        model: run in both modes, and put back as it was.
        placement: "before" or "after".
        example: a batch.
        reason: why the model could not be traced, for messages.

    Returns:
        Path -> spot, in the order of registration.

    Raises:
        ConversionError: the model raises, an activation is called as a function, or a module is called more than once,
            so that a norm beside the module would not do; the message says what to change.
    """
    seen: dict[nn.Module, list[_Call]] = {}
    called: set[nn.Module] = set()
    for training in (False, True):
        watch = _Watch()
        output = _watched_run(model, example, training, watch, reason)
        for call in watch.functions:
            if watch.is_hidden(call.output, output, gate=is_gate_call(call.function)):
                name = getattr(call.function, "__name__", str(call.function))
                raise ConversionError(
                    f"insert: the model cannot be traced ({reason}) and calls {name} as a function, beside which "
                    f"nothing can be put; make it a module, as in self.act = nn.ReLU()"
                )
        called.update(watch.modules)
        for module, calls in watch.modules.items():
            gate = isinstance(module, GATE_MODULES)
            hidden = [call for call in calls if watch.is_hidden(call.output, output, gate=gate)]
            if len(hidden) > len(seen.get(module, ())):
                seen[module] = hidden
    sites = {}
    for path, module in model.named_modules():
        calls = seen.get(module, [])
        if len(calls) > 1:
            raise ConversionError(
                f"insert: the model cannot be traced ({reason}) and calls {path!r} {len(calls)} times a pass; "
                "give each call an activation module of its own"
            )
        if calls:
            value = calls[0].before if placement == "before" else calls[0].after
            sites[path] = spot_of(value[0], value[1], repr(path))
        elif isinstance(module, ACTIVATION_MODULES) and module not in called:
            warnings.warn(
                f"insert: {path!r} is not called on the example, and gets no batch norm",
                ConversionWarning,
                stacklevel=5,
            )
    return sites


@dataclass
class _Call:
    output: Tensor
    function: Any = None
    before: tuple[Any, Any] = ((), None)
    after: tuple[Any, Any] = ((), None)


@dataclass
class _Uses:
    products: int = 0
    others: int = 0


class _Watch(Layouts):
    """Layouts, and which activations were called, from where, and what became of their values."""

    def __init__(self) -> None:
        super().__init__()
        self.modules: dict[nn.Module, list[_Call]] = {}
        self.functions: list[_Call] = []
        self._uses: dict[int, _Uses] = {}
        self._origin: dict[int, int] = {}
        self._inside = 0
        self._kept: list[Any] = []

    def note(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        super().note(func, args, kwargs, result)
        if isinstance(result, Tensor) and args and isinstance(args[0], Tensor):
            if getattr(func, "__name__", "") in _PASSING:
                self._origin[id(result)] = self._origin.get(id(args[0]), id(args[0]))
            if not self._inside and is_activation_call(func, args, kwargs):
                self.functions.append(_Call(result, func))
        product = is_product(func, _OPERATORS)
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor):
                uses = self._uses.setdefault(id(value), _Uses())
                uses.products += product
                uses.others += not product

    def enter(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        """Hook before an activation module: its shape is read now, since it may be overwritten."""
        self._inside += 1
        if args and isinstance(args[0], Tensor):
            self._kept.append((tuple(args[0].shape), self.layout(args[0])))

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Hook behind it."""
        self._inside -= 1
        if args and isinstance(args[0], Tensor):
            before = self._kept.pop()
            self.modules.setdefault(module, []).append(
                _Call(output, before=before, after=(tuple(output.shape), self.layout(output)))
            )

    def is_hidden(self, value: Tensor, output: Any, *, gate: bool) -> bool:
        """Whether an activation's value belongs to a hidden layer: it is no gate, and not the model's output."""
        uses = self._uses.get(id(value), _Uses())
        if gate and uses.products and not uses.others:
            return False
        outputs = output.values() if isinstance(output, dict) else output
        outputs = outputs if isinstance(output, tuple | list | dict) else (output,)
        return all(id(value) not in (id(item), self._origin.get(id(item))) for item in outputs)


_OPERATORS: frozenset[Any] = frozenset({operator.mul, operator.imul})


def _watched_run(model: nn.Module, example: Any, training: bool, watch: _Watch, reason: str) -> Any:
    with restored(model):
        for module in model.modules():
            if isinstance(module, ACTIVATION_MODULES):
                module.register_forward_pre_hook(watch.enter)
                module.register_forward_hook(watch.leave)
        try:
            with watch:
                return run(model, example, training=training)
        except Exception as problem:
            text = " ".join(str(problem).split())
            raise ConversionError(
                f"insert: the model cannot be traced ({reason}), and on the example it raised "
                f"{type(problem).__name__}: {text}"
            ) from problem
