"""Batch norm over (N, C), (N, C, L), (N, C, H, W) and (N, C, D, H, W)."""

from typing import ClassVar

import torch

from batchnorm.nn.tracked import TrackedNorm

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]


class BatchNorm1d(TrackedNorm, torch.nn.BatchNorm1d):
    """Batch normalization of (N, C) or (N, C, L), in place of `torch.nn.BatchNorm1d`.

    y = act((x - mean) / sqrt(var + eps) * weight + bias + residual), a channel each; in training mean and biased
    variance are the batch's and move the running statistics (variance times count / (count - 1)); in evaluation
    they are the running statistics.

    Args:
        num_features: channels C.
        eps: added to the variance. Default 1e-5.
        momentum: weight of the new batch in the running statistics; None for the cumulative average. Default 0.1.
        affine: learn weight and bias (C,). Default True.
        track_running_stats: keep running statistics; without them evaluation uses the batch. Default True.
        device: of parameters and buffers.
        dtype: of weight and bias; running statistics are float32 or wider whatever it is.
        bias: keyword; False leaves the bias out. Default True.

    Call:
        layer(input, residual=None, *, act=None, mask=None, lengths=None); see `forward`. `input` may be a
        PackedSequence.

    Raises:
        DimensionError: (ValueError) the input is not 2-D or 3-D.
        BatchTooSmallError: (ValueError) training with one value a channel.

    Example:
        >>> import torch, batchnorm as bn
        >>> layer = bn.BatchNorm1d(4)
        >>> layer(torch.randn(8, 4, 10), act="relu", lengths=torch.full((8,), 7)).shape
        torch.Size([8, 4, 10])

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2.
    """

    _ranks: ClassVar[tuple[int, ...]] = (2, 3)
    _takes_rows: ClassVar[bool] = True


class BatchNorm2d(TrackedNorm, torch.nn.BatchNorm2d):
    """Batch normalization of images (N, C, H, W), in place of `torch.nn.BatchNorm2d`.

    y = act((x - mean) / sqrt(var + eps) * weight + bias + residual), each channel over N, H and W.

    Args:
        num_features: channels C. The other arguments are those of `BatchNorm1d`.

    Call:
        layer(input, residual=None, *, act=None, mask=None); mask is (N, H, W).

    Raises:
        DimensionError: (ValueError) the input is not 4-D.
        BatchTooSmallError: (ValueError) training with one value a channel.

    Example:
        >>> import torch, batchnorm as bn
        >>> x = torch.randn(8, 16, 28, 28)
        >>> bn.BatchNorm2d(16)(x, residual=x, act="relu").shape
        torch.Size([8, 16, 28, 28])

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, section 3.2.
    """

    _ranks: ClassVar[tuple[int, ...]] = (4,)


class BatchNorm3d(TrackedNorm, torch.nn.BatchNorm3d):
    """Batch normalization of volumes (N, C, D, H, W), in place of `torch.nn.BatchNorm3d`.

    y = act((x - mean) / sqrt(var + eps) * weight + bias + residual), each channel over N, D, H and W.

    Args:
        num_features: channels C. The other arguments are those of `BatchNorm1d`.

    Call:
        layer(input, residual=None, *, act=None, mask=None); mask is (N, D, H, W).

    Raises:
        DimensionError: (ValueError) the input is not 5-D.
        BatchTooSmallError: (ValueError) training with one value a channel.

    Example:
        >>> import torch, batchnorm as bn
        >>> bn.BatchNorm3d(4)(torch.randn(2, 4, 3, 5, 5)).shape
        torch.Size([2, 4, 3, 5, 5])

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, section 3.2.
    """

    _ranks: ClassVar[tuple[int, ...]] = (5,)
