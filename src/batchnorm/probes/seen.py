"""What one call of a module took and gave, and the hooks that see it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from batchnorm.errors import ArgumentError, ArgumentTypeError

__all__ = ["Measure", "Seen", "first_tensor", "modules_at", "with_first_tensor"]

T = TypeVar("T")
Measure = Callable[[Tensor], T]
"""Makes a number, or anything else, of one tensor; runs inside the pass."""


@dataclass(frozen=True, eq=False)
class Seen(Generic[T]):
    """One call of one module.

    Args:
        path: of the module.
        call: 0 for its first call in the pass.
        input: what was measured of the first tensor that it took; None where it took none.
        output: of the first tensor that it gave; None where it gave none.
    """

    path: str
    call: int
    input: T | None
    output: T | None


def modules_at(model: nn.Module, at: Any) -> list[tuple[str, nn.Module]]:
    """The modules at some paths.

    Raises:
        ArgumentTypeError: at is not a sequence of paths.
        ArgumentError: at is empty, or the model has no module at one of them.
    """
    if isinstance(at, str) or not isinstance(at, Sequence) or not all(isinstance(path, str) for path in at):
        raise ArgumentTypeError(
            f"at: expected a list of module paths such as ['0', 'block.norm'], got {at!r}"
        )
    if not at:
        raise ArgumentError("at: expected the path of a module or more, got none")
    modules = dict(model.named_modules(remove_duplicate=False))
    for path in at:
        if path not in modules:
            raise ArgumentError(
                f"at: expected paths that model.named_modules() has, got {path!r}; it has {', '.join(modules)[:300]}"
            )
    return [(path, modules[path]) for path in dict.fromkeys(at)]


def first_tensor(tree: Any) -> Tensor | None:
    """The first tensor in nested arguments or outputs."""
    return next((leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)), None)


def with_first_tensor(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same arguments or outputs, with another tensor in place of the first."""
    leaves, form = tree_flatten(tree)
    for index, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            leaves[index] = change(leaf)
            break
    return tree_unflatten(leaves, form)
