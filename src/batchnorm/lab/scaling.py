"""Standardisation by the training split's statistics, in double precision and little memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Scaling"]

_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Scaling:
    """Per channel: `(x * unit - mean) / std`.

    Every network sees standardised inputs, with and without batch norm: a comparison on raw inputs
    would credit to batch norm what one subtraction and one division of the data already give.

    Args:
        mean: float64, (C,), of the training split.
        std: float64, (C,), its biased standard deviation; 1 where a channel is constant.
        unit: what a stored number is worth, 1/255 for 8-bit pixels.
    """

    mean: np.ndarray
    std: np.ndarray
    unit: float = 1.0

    @classmethod
    def fit(cls, train: np.ndarray) -> "Scaling":
        """Measure the training split, (N, C) or (N, C, H, W); 8-bit images count in units of 1/255."""
        unit = 1 / 255 if train.dtype == np.uint8 and train.ndim == 4 else 1.0
        axes = (0, *range(2, train.ndim))
        count = train.size // train.shape[1]
        mean = sum(chunk.sum(axes) for chunk in _chunks(train, unit)) / count
        centre = _column(mean, train.ndim)
        var = sum(np.square(chunk - centre).sum(axes) for chunk in _chunks(train, unit)) / count
        # Rounding leaves a constant channel a variance just above zero, which division would blow up.
        constant = train.max(axes) == train.min(axes)
        return cls(mean, np.where(constant, 1.0, np.sqrt(var)), unit)

    def apply(self, raw: np.ndarray) -> Tensor:
        """Standardise an array of the same layout; returns float32 of the same shape."""
        out = np.empty(raw.shape, np.float32)
        mean, std = _column(self.mean, raw.ndim), _column(self.std, raw.ndim)
        for start, chunk in zip(range(0, len(raw), _ROWS), _chunks(raw, self.unit), strict=True):
            out[start : start + len(chunk)] = (chunk - mean) / std
        return torch.from_numpy(out)

    def undo(self, x: Tensor) -> np.ndarray:
        """Give back the numbers before standardising, float64; pixels in [0, 1]."""
        values = x.numpy().astype(np.float64)
        return values * _column(self.std, x.ndim) + _column(self.mean, x.ndim)


def _chunks(raw: np.ndarray, unit: float) -> Iterator[np.ndarray]:
    for start in range(0, len(raw), _ROWS):
        yield raw[start : start + _ROWS].astype(np.float64) * unit


def _column(values: np.ndarray, ndim: int) -> np.ndarray:
    return values.reshape(1, -1, *[1] * (ndim - 2))
