"""Batch norm with running statistics of each domain."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from batchnorm._state import CHOICE
from batchnorm.activations import ActivationLike
from batchnorm.errors import ArgumentError
from batchnorm.nn.bank import StatisticsBank, whole_number
from batchnorm.running import is_recomputed

__all__ = ["DomainBatchNorm1d", "DomainBatchNorm2d", "DomainBatchNorm3d", "domain"]


@contextlib.contextmanager
def domain(index: int) -> Iterator[None]:
    """Inside the `with` block every `DomainBatchNorm` that is not told otherwise uses this domain's statistics.

    Blocks may be nested; the choice holds in this thread. A forward that activation checkpointing repeats outside of
    the block needs no domain in training; in evaluation put the backward pass inside too.

    Args:
        index: from 0; each layer compares it with its num_domains when it is called.

    Raises:
        ArgumentTypeError: (TypeError) the index is no int.
        ArgumentError: (ValueError) it is negative.

    Example:
        >>> import torch, batchnorm as bn
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), bn.DomainBatchNorm2d(8, num_domains=2))
        >>> with bn.domain(1):
        ...     y = model(torch.randn(4, 3, 9, 9))
        >>> model[1].num_batches_tracked
        tensor([0, 1])

    """
    whole_number("domain", index)
    before = CHOICE.domain
    CHOICE.domain = index
    try:
        yield
    finally:
        CHOICE.domain = before


class _DomainBatchNorm(StatisticsBank):
    def __init__(
        self,
        num_features: int,
        num_domains: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        whole_number("num_domains", num_domains, least=1)
        if not track_running_stats:
            raise ArgumentError(
                f"{type(self).__name__} keeps running statistics of each domain: track_running_stats must be True"
            )
        super().__init__(num_domains, num_features, eps, momentum, affine, device, dtype, bias)
        self.num_domains = num_domains

    def forward(
        self,
        input: Tensor | PackedSequence,
        residual: Tensor | PackedSequence | None = None,
        *,
        domain: int | None = None,
        act: ActivationLike = None,
        mask: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Any:
        """Return act(BN(input) + residual) with the statistics of one domain.

        Args:
            input: see `BatchNorm1d`, as are residual, act, mask and lengths.
            domain: from 0 to num_domains - 1; default what `bn.domain` chose.

        Raises:
            ArgumentError: (ValueError) there is no such domain, or none was chosen among several.
            ArgumentTypeError: (TypeError) it is no int.
        """
        chosen = contextlib.nullcontext() if domain is None else _chosen(domain)
        with chosen:
            return super().forward(input, residual, act=act, mask=mask, lengths=lengths)

    def _normalize(
        self, input: Tensor, residual: Tensor | None, act: ActivationLike, mask: Tensor | None
    ) -> Tensor:
        return self._normalize_with(self._row(self._domain()), self.training, input, residual, act, mask)

    def _domain(self) -> int:
        if CHOICE.domain is not None:
            return whole_number("domain", CHOICE.domain, below=self.num_domains)
        # Training normalizes with the batch, and what checkpointing repeats outside of the block has been counted.
        if self.num_domains == 1 or (self.training and is_recomputed()):
            return 0
        raise ArgumentError(
            f"{type(self).__name__} has statistics of {self.num_domains} domains and none was chosen: call "
            "layer(x, domain=0), or the model inside `with bn.domain(0):`"
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self._buffers.items():
            loaded = state_dict.get(prefix + name)
            if buffer is not None and loaded is not None and loaded.shape == buffer.shape[1:]:
                state_dict[prefix + name] = loaded.expand(buffer.shape).clone()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_domains={self.num_domains}"


_chosen = domain  # which forward's argument hides


class DomainBatchNorm1d(_DomainBatchNorm):
    """Batch normalization of (N, C) or (N, C, L) with running statistics of each domain, and shared weight and bias.

    y = act((x - mean) / sqrt(var + eps) * weight + bias + residual), a channel each; in training mean and biased
    variance are the batch's and move the running statistics of the domain that the call names; in evaluation they are
    that domain's.

    For data of several sources, such as domain adaptation, or clean and adversarial images: a batch comes from one
    domain. Which one says the call, `layer(x, domain=1)`, or for a whole model `with bn.domain(1): model(x)`; the
    argument wins. There is no default among several: a forgotten choice would mix one domain's statistics into
    another's, and no error would ever tell. A batch norm's checkpoint loads, and fills every domain.

    Args:
        num_features: channels C.
        num_domains: D, at least 1. running_mean and running_var are (D, C), num_batches_tracked is (D,).
        eps: added to the variance. Default 1e-5.
        momentum: weight of the new batch in its domain's statistics; None for the cumulative average of the domain's
            batches, as adapting a trained model wants it. Default 0.1.
        affine: learn weight and bias (C,). Default True.
        track_running_stats: must be True.
        device: of parameters and buffers.
        dtype: of weight and bias; running statistics are float32 or wider whatever it is.
        bias: keyword; False leaves the bias out. Default True.

    Call:
        layer(input, residual=None, *, domain=None, act=None, mask=None, lengths=None) as of `BatchNorm1d`.

    Raises:
        ArgumentError: (ValueError) num_domains is not positive; track_running_stats is False; the domain does not
            exist, or none was chosen.
        ArgumentTypeError: (TypeError) one of them is no int.
        As `BatchNorm1d` otherwise.

    Example:
        >>> import torch, batchnorm as bn
        >>> layer = bn.DomainBatchNorm1d(4, num_domains=2)
        >>> y = layer(torch.randn(8, 4), domain=1)
        >>> layer.running_mean.shape, layer.num_batches_tracked
        (torch.Size([2, 4]), tensor([0, 1]))

    Source: Li et al. 2016, arXiv:1603.04779 (AdaBN: statistics of each domain, shared weights); Chang et al. 2019,
    arXiv:1906.03950, section 3.2, where weight and bias are a domain's own, too.
    """

    _ranks: ClassVar[tuple[int, ...]] = (2, 3)
    _takes_rows: ClassVar[bool] = True


class DomainBatchNorm2d(_DomainBatchNorm):
    """Batch normalization of images (N, C, H, W) with running statistics of each domain.

    y = act((x - mean) / sqrt(var + eps) * weight + bias + residual), each channel over N, H and W.

    Args:
        num_features: channels C.
        num_domains: D. It and the other arguments are those of `DomainBatchNorm1d`.

    Call:
        layer(input, residual=None, *, domain=None, act=None, mask=None); mask is (N, H, W).

    Raises:
        As `DomainBatchNorm1d`; the input must be 4-D.

    Example:
        >>> import torch, batchnorm as bn
        >>> layer = bn.DomainBatchNorm2d(16, num_domains=3)
        >>> layer(torch.randn(8, 16, 7, 7), domain=2, act="relu").shape
        torch.Size([8, 16, 7, 7])

    Source: as `DomainBatchNorm1d`.
    """

    _ranks: ClassVar[tuple[int, ...]] = (4,)


class DomainBatchNorm3d(_DomainBatchNorm):
    """Batch normalization of volumes (N, C, D, H, W) with running statistics of each domain.

    y = act((x - mean) / sqrt(var + eps) * weight + bias + residual), each channel over N, D, H and W.

    Args:
        num_features: channels C.
        num_domains: number of domains. It and the other arguments are those of `DomainBatchNorm1d`.

    Call:
        layer(input, residual=None, *, domain=None, act=None, mask=None); mask is (N, D, H, W).

    Raises:
        As `DomainBatchNorm1d`; the input must be 5-D.

    Example:
        >>> import torch, batchnorm as bn
        >>> bn.DomainBatchNorm3d(4, num_domains=2)(torch.randn(2, 4, 3, 5, 5), domain=0).shape
        torch.Size([2, 4, 3, 5, 5])

    Source: as `DomainBatchNorm1d`.
    """

    _ranks: ClassVar[tuple[int, ...]] = (5,)
