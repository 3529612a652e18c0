"""Watch which layers of a model an example reaches, and whether exchanged ones are still in use."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from batchnorm.errors import ConversionError
from batchnorm.surgery.restored import restored, run

__all__ = ["reached", "touched"]


def reached(model: nn.Module, layers: Iterable[nn.Module], example: Any) -> dict[nn.Module, set[int]]:
    """The layers that run on an example, in either mode, with the dimensions of their inputs.

    Args:
        model: put back as it was.
        layers: of the model.
        example: a batch, as for `run`.

    Raises:
        ConversionError: the model raises in evaluation. That training raises (one row is too few) tells nothing.
    """
    seen: dict[nn.Module, set[int]] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        value = args[0] if args else kwargs.get("input")
        seen.setdefault(module, set()).update({value.dim()} if isinstance(value, Tensor) else ())

    with restored(model):
        for layer in layers:
            layer.register_forward_pre_hook(note, with_kwargs=True)
        try:
            run(model, example)
        except Exception as problem:
            text = " ".join(str(problem).split())
            raise ConversionError(f"example: the model raised {type(problem).__name__}: {text}") from problem
        with contextlib.suppress(Exception):
            run(model, example, training=True)
    return seen


def touched(
    model: nn.Module, old: Iterable[nn.Module], new: Iterable[nn.Module], example: Any
) -> tuple[set[nn.Module], set[nn.Module] | None]:
    """Which layers that a model should no longer hold it uses all the same, and which of the new it runs.

    A use is any attribute that is read of an old layer: a call, its `forward` that was kept, its weight.

    Args:
        model: put back as it was.
        old: layers that are out of the model; their values are put back too.
        new: layers in the model.
        example: a batch, as for `run`.

    Returns:
        The old in use; the new that run, or None where the model raises and there is no telling.
    """
    old = list(old)
    running: set[nn.Module] | None = set()
    seen: set[nn.Module] = set()
    with contextlib.ExitStack() as stack:
        for module in (model, *old):
            stack.enter_context(restored(module))
        for layer in new:
            layer.register_forward_pre_hook(lambda module, _: seen.add(module))
        used = stack.enter_context(_tripwires(old))
        for training in (False, True):
            try:
                run(model, example, training=training)
            except Exception:
                running = None
    return used, running if running is None else seen


@contextlib.contextmanager
def _tripwires(layers: Iterable[nn.Module]) -> Iterator[set[nn.Module]]:
    """Within it, layers are of a class that notes when they are used; hooks would miss a call of `forward`."""
    used: set[nn.Module] = set()
    kinds: dict[nn.Module, type[nn.Module]] = {layer: type(layer) for layer in layers}
    wired: Mapping[Any, Any] = {kind: _wired(kind, used) for kind in set(kinds.values())}
    try:
        for layer, kind in kinds.items():
            object.__setattr__(layer, "__class__", wired[kind])
        yield used
    finally:
        for layer, kind in kinds.items():
            object.__setattr__(layer, "__class__", kind)


def _wired(kind: type[nn.Module], used: set[nn.Module]) -> type[nn.Module]:
    def note(self: nn.Module, name: str) -> Any:
        if not name.startswith("__"):
            used.add(self)
        return kind.__getattribute__(self, name)

    return type(kind.__name__, (kind,), {"__getattribute__": note})
