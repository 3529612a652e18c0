"""Which backend serves a call: what the caller asked for, and what can."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from batchnorm._state import CHOICE
from batchnorm.errors import ArgumentError, BackendError
from batchnorm.moments import Moments, RunningStats
from batchnorm.ops import native, reference
from batchnorm.ops.reference import Affine, Gradients
from batchnorm.ops.shared_library import load, require

__all__ = ["NAMES", "Backend", "backend", "select"]

NAMES = ("auto", "native", "reference", "triton")


class Backend(Protocol):
    """What a backend's module has; `reference` documents each function."""

    def moments(self, x: Tensor, mask: Tensor | None, channel_dim: int) -> Moments: ...

    def normalize(
        self, x: Tensor, mean: Tensor, invstd: Tensor, affine: Affine, channel_dim: int
    ) -> Tensor: ...

    def grad_moments(
        self, grad_output: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, affine: Affine, channel_dim: int
    ) -> tuple[Tensor, Tensor]: ...

    def grad_input(
        self,
        grad_output: Tensor,
        x: Tensor,
        mean: Tensor,
        invstd: Tensor,
        affine: Affine,
        channel_dim: int,
        means: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self,
        x: Tensor,
        affine: Affine,
        eps: float,
        channel_dim: int,
        running: RunningStats | None = None,
        momentum: float | None = None,
    ) -> tuple[Tensor, Tensor]: ...

    def evaluate(
        self, x: Tensor, mean: Tensor, var: Tensor, affine: Affine, eps: float, channel_dim: int
    ) -> tuple[Tensor, Tensor]: ...

    def backward(
        self,
        grad_output: Tensor,
        x: Tensor,
        rows: Tensor,
        affine: Affine,
        channel_dim: int,
        needs: Sequence[bool],
        parameter_dtype: torch.dtype | None,
        output: Tensor | None = None,
    ) -> Gradients: ...

    def moves(self, running: RunningStats) -> bool: ...


def select(x: Tensor, affine: Affine) -> Backend:
    """The backend for a call of dense tensors in eager mode.

    Raises:
        BackendError: (RuntimeError) the native backend was asked for, and x is on a device that it does not serve.
    """
    wanted = CHOICE.backend
    if wanted == "reference":
        return reference
    if native.serves(x, affine) and not isinstance(load(), str):
        return native
    if wanted == "native" and not x.is_cpu:
        raise BackendError(f"the native backend serves tensors on the CPU, got one on {x.device}")
    return reference


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Use one backend inside a `with` block, in this thread; what a forward used, its backward uses too.

    "native" and "reference" serve what they can: a call that the native one cannot take (empty tensors, function
    transforms, ...) is the reference's in either case.

    Args:
        name: "auto" for the fastest that can serve a call, "native" (C++ on the CPU), "reference" (plain torch, the
            specification), or "triton".

    Raises:
        BackendError: (RuntimeError) that backend is not available here; the message says why.
        ArgumentError: (ValueError) there is no backend of that name.

    Example:
        >>> import torch, batchnorm as bn
        >>> with bn.backend("reference"):
        ...     y = bn.BatchNorm1d(3)(torch.randn(5, 3))

    """
    if name not in NAMES:
        raise ArgumentError(f"backend must be one of {', '.join(NAMES)}, got {name!r}")
    if name == "triton":
        raise BackendError("the triton backend is not available: this version has none")
    if name == "native":
        require()
    before = CHOICE.backend
    CHOICE.backend = name
    try:
        yield
    finally:
        CHOICE.backend = before
