"""Batch norm for tensors whose channels are the last dimension."""

from typing import Any, ClassVar

from batchnorm.nn.tracked import TrackedNorm

__all__ = ["ChannelsLastBatchNorm"]


class ChannelsLastBatchNorm(TrackedNorm):
    """Batch normalization of (N, *, C): sequences (N, L, C), images (N, H, W, C), rows (N, C).

    y = act((x - mean) / sqrt(var + eps) * weight + bias + residual), each channel over all other dimensions.

    Same parameters, buffers and state_dict as `BatchNorm1d`, without transposes. It is no `_BatchNorm`, so that tools
    which take the channels from dimension 1 leave it alone.

    Args:
        num_features: channels C. The other arguments are those of `BatchNorm1d`.

    Call:
        layer(input, residual=None, *, act=None, mask=None, lengths=None); mask is (N, *), lengths (N,) for (N, L, C).
        `input` may be a PackedSequence.

    Raises:
        DimensionError: (ValueError) the input has fewer than two dimensions.
        BatchTooSmallError: (ValueError) training with one value a channel.

    Example:
        >>> import torch, batchnorm as bn
        >>> bn.ChannelsLastBatchNorm(32)(torch.randn(8, 50, 32)).shape
        torch.Size([8, 50, 32])

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2.
    """

    _channel_dim: ClassVar[int] = -1
    _takes_rows: ClassVar[bool] = True

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype, bias=bias
        )
