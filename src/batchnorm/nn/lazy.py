"""Batch norm that learns its number of channels from the first input."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from batchnorm.nn.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from batchnorm.nn.tracked import TrackedNorm

__all__ = ["LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d"]


class _FirstInput:
    """Mixed in before TrackedNorm: takes every argument of the first call, and keeps the statistics wide."""

    num_features: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._widen_buffers()  # type: ignore[attr-defined]

    def initialize_parameters(self, input: Tensor | PackedSequence, *_: Any, **__: Any) -> None:
        """Create parameters and buffers for the channels of `input`; the call's other arguments do not matter."""
        data = input.data if isinstance(input, PackedSequence) else input
        self._check_input_dim(data)  # type: ignore[attr-defined]
        super().initialize_parameters(data)  # type: ignore[misc]
        if self.num_features == 0:  # a state_dict came before the first input
            self.num_features = data.size(1)


class LazyBatchNorm1d(_FirstInput, TrackedNorm, torch.nn.LazyBatchNorm1d):
    """`BatchNorm1d` that takes num_features from the first input's second dimension, and is one from then on.

    Args:
        eps: and all that follow as in `BatchNorm1d`, without num_features.

    Raises:
        DimensionError: (ValueError) the first input is not 2-D or 3-D; the layer stays uninitialized.

    Example:
        >>> import torch, batchnorm as bn
        >>> layer = bn.LazyBatchNorm1d()
        >>> _ = layer(torch.randn(8, 5))
        >>> type(layer).__name__, layer.num_features
        ('BatchNorm1d', 5)

    Source: torch.nn.LazyBatchNorm1d.
    """

    cls_to_become = BatchNorm1d
    _ranks: ClassVar[tuple[int, ...]] = (2, 3)
    _takes_rows: ClassVar[bool] = True


class LazyBatchNorm2d(_FirstInput, TrackedNorm, torch.nn.LazyBatchNorm2d):
    """`BatchNorm2d` that takes num_features from the first input's second dimension, and is one from then on.

    Args:
        eps: and all that follow as in `BatchNorm2d`, without num_features.

    Raises:
        DimensionError: (ValueError) the first input is not 4-D; the layer stays uninitialized.

    Example:
        >>> import torch, batchnorm as bn
        >>> layer = bn.LazyBatchNorm2d()
        >>> _ = layer(torch.randn(8, 5, 4, 4))
        >>> type(layer).__name__, layer.num_features
        ('BatchNorm2d', 5)

    Source: torch.nn.LazyBatchNorm2d.
    """

    cls_to_become = BatchNorm2d
    _ranks: ClassVar[tuple[int, ...]] = (4,)


class LazyBatchNorm3d(_FirstInput, TrackedNorm, torch.nn.LazyBatchNorm3d):
    """`BatchNorm3d` that takes num_features from the first input's second dimension, and is one from then on.

    Args:
        eps: and all that follow as in `BatchNorm3d`, without num_features.

    Raises:
        DimensionError: (ValueError) the first input is not 5-D; the layer stays uninitialized.

    Example:
        >>> import torch, batchnorm as bn
        >>> layer = bn.LazyBatchNorm3d()
        >>> _ = layer(torch.randn(8, 5, 2, 4, 4))
        >>> type(layer).__name__, layer.num_features
        ('BatchNorm3d', 5)

    Source: torch.nn.LazyBatchNorm3d.
    """

    cls_to_become = BatchNorm3d
    _ranks: ClassVar[tuple[int, ...]] = (5,)
