"""Batch norm whose statistics, weight and bias stay as they are, in training too."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Parameter

from batchnorm.activations import ActivationLike
from batchnorm.errors import ArgumentError
from batchnorm.moments import RunningStats
from batchnorm.nn.tracked import TrackedNorm

__all__ = ["FrozenBatchNorm1d", "FrozenBatchNorm2d", "FrozenBatchNorm3d"]

_AFFINE = ("weight", "bias")


class _FrozenBatchNorm(TrackedNorm):
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
        if not track_running_stats:
            raise ArgumentError(
                f"{type(self).__name__} normalizes with its running statistics: track_running_stats must be True"
            )
        super().__init__(num_features, eps, momentum, affine, device=device, dtype=dtype, bias=bias)
        self._hold_as_buffers()

    def _normalize(
        self, input: Tensor, residual: Tensor | None, act: ActivationLike, mask: Tensor | None
    ) -> Tensor:
        stats = RunningStats(self.running_mean, self.running_var)
        return self._normalize_with(stats, False, input, residual, act, mask)

    def _hold_as_buffers(self) -> None:
        """Make weight and bias buffers, before the others as in the state_dict of a batch norm."""
        held = {name: _detached(getattr(self, name)) for name in _AFFINE}
        for name in _AFFINE:
            self._parameters.pop(name, None)
        self._buffers = {**held, **{name: self._buffers[name] for name in self._buffers if name not in held}}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # torchvision's and detectron2's frozen layers count no batches; assign=True must not leave a count on meta.
        counter = self.num_batches_tracked
        assert counter is not None
        state_dict.setdefault(f"{prefix}num_batches_tracked", torch.tensor(0) if counter.is_meta else counter)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._hold_as_buffers()  # assign=True takes over a checkpoint's parameters as parameters

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, affine={self.affine}, bias={self.bias is not None}"


def _detached(tensor: Tensor | None) -> Tensor | None:
    return tensor.detach() if isinstance(tensor, Parameter) else tensor


class FrozenBatchNorm1d(_FrozenBatchNorm):
    """Batch normalization of (N, C) or (N, C, L) by running statistics that never move, in training too.

    y = act((x - running_mean) / sqrt(running_var + eps) * weight + bias + residual), a channel each.

    For fine-tuning with batches too small for statistics, as in detection. Running statistics, weight and bias are
    buffers: no optimizer moves them, `model.train()` changes nothing, and gradients flow to input and residual only.
    The state_dict has the keys of a batch norm and takes a batch norm's checkpoint, also one without
    num_batches_tracked, as torchvision's frozen layers write it. It is no `_BatchNorm`: tools that estimate statistics
    leave it alone. `bn.convert(model, to="frozen")` makes one of a trained batch norm.

    Args:
        num_features: channels C.
        eps: added to the variance. Default 1e-5.
        momentum: not used; a conversion back to a batch norm gives it back. Default 0.1.
        affine: have weight and bias (C,). Default True.
        track_running_stats: must be True.
        device: of the buffers.
        dtype: of weight and bias; running statistics are float32 or wider whatever it is.
        bias: keyword; False leaves the bias out. Default True.

    Call:
        layer(input, residual=None, *, act=None, mask=None, lengths=None) as of `BatchNorm1d`.

    Raises:
        ArgumentError: (ValueError) track_running_stats is False.
        DimensionError: (ValueError) the input is not 2-D or 3-D.

    Example:
        >>> import torch, batchnorm as bn
        >>> trained = bn.BatchNorm1d(4)
        >>> _ = trained(torch.randn(8, 4))
        >>> frozen = bn.FrozenBatchNorm1d(4)
        >>> frozen.load_state_dict(trained.state_dict())
        <All keys matched successfully>
        >>> x = torch.randn(1, 4)
        >>> torch.equal(frozen.train()(x), trained.eval()(x))
        True

    Source: He et al. 2016, arXiv:1512.03385, appendix A (detection: "BN layers are fixed").
    """

    _ranks: ClassVar[tuple[int, ...]] = (2, 3)
    _takes_rows: ClassVar[bool] = True


class FrozenBatchNorm2d(_FrozenBatchNorm):
    """Batch normalization of images (N, C, H, W) by running statistics that never move, in training too.

    y = act((x - running_mean) / sqrt(running_var + eps) * weight + bias + residual), a channel each.

    Args:
        num_features: channels C. The other arguments are those of `FrozenBatchNorm1d`.

    Call:
        layer(input, residual=None, *, act=None, mask=None); mask is (N, H, W).

    Raises:
        ArgumentError: (ValueError) track_running_stats is False.
        DimensionError: (ValueError) the input is not 4-D.

    Example:
        >>> import torch, batchnorm as bn
        >>> layer = bn.FrozenBatchNorm2d(16)
        >>> layer(torch.randn(1, 16, 1, 1), act="relu").shape, list(layer.parameters())
        (torch.Size([1, 16, 1, 1]), [])

    Source: He et al. 2016, arXiv:1512.03385, appendix A (detection: "BN layers are fixed").
    """

    _ranks: ClassVar[tuple[int, ...]] = (4,)


class FrozenBatchNorm3d(_FrozenBatchNorm):
    """Batch normalization of volumes (N, C, D, H, W) by running statistics that never move, in training too.

    y = act((x - running_mean) / sqrt(running_var + eps) * weight + bias + residual), a channel each.

    Args:
        num_features: channels C. The other arguments are those of `FrozenBatchNorm1d`.

    Call:
        layer(input, residual=None, *, act=None, mask=None); mask is (N, D, H, W).

    Raises:
        ArgumentError: (ValueError) track_running_stats is False.
        DimensionError: (ValueError) the input is not 5-D.

    Example:
        >>> import torch, batchnorm as bn
        >>> bn.FrozenBatchNorm3d(4)(torch.randn(1, 4, 3, 5, 5)).shape
        torch.Size([1, 4, 3, 5, 5])

    Source: He et al. 2016, arXiv:1512.03385, appendix A (detection: "BN layers are fixed").
    """

    _ranks: ClassVar[tuple[int, ...]] = (5,)
