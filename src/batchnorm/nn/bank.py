"""Several sets of running statistics in one layer, of which each call uses one."""

from typing import Any

from batchnorm.errors import ArgumentError, ArgumentTypeError
from batchnorm.moments import UNTRACKED, RunningStats
from batchnorm.nn.tracked import TrackedNorm

__all__ = ["StatisticsBank", "whole_number"]


class StatisticsBank(TrackedNorm):
    """Running statistics in rows, (rows, C) and a counter (rows,); weight and bias (C,) are shared by all rows.

    A row is a view, which the kernels move in place as they move a plain layer's buffers.
    """

    def __init__(
        self,
        rows: int,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        device: Any,
        dtype: Any,
        bias: bool,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, device=device, dtype=dtype, bias=bias)
        for name, buffer in self._buffers.items():
            assert buffer is not None
            self._buffers[name] = buffer.expand(rows, *buffer.shape).clone()

    def _row(self, row: int) -> RunningStats:
        """What a call with this row moves in training, and uses otherwise."""
        if self.training and not self.track_running_stats:
            return UNTRACKED
        # A view costs as much as a small kernel, so that evaluation makes none of the counter.
        counter = self.num_batches_tracked[row] if self.training else None  # type: ignore[index]
        return RunningStats(self.running_mean[row], self.running_var[row], counter)  # type: ignore[index]


def whole_number(name: str, value: Any, least: int = 0, below: int | None = None) -> int:
    """The value, if it is an int in that range.

    Raises:
        ArgumentTypeError: it is no int.
        ArgumentError: it is outside.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise ArgumentTypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least or (below is not None and value >= below):
        wanted = f"at least {least}" if below is None else f"from {least} to {below - 1}"
        raise ArgumentError(f"{name} must be {wanted}, got {value}")
    return value
