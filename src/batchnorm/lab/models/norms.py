"""What stands at the sites of a network: an arm by name, or a maker of one's own."""

from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.lab import arms
from batchnorm.lab.models.network import NormMaker
from batchnorm.nn import BatchNorm1d, BatchNorm2d

__all__ = ["Noisy", "maker", "noisy", "plain_batch_norm"]


def maker(norm: str | NormMaker) -> NormMaker:
    """The maker of an arm's layers; a maker is returned as it is.

    Args:
        norm: a name in `arms.KNOWN`, or (channels, dimensions of the input, time steps) -> a layer.

    Returns:
        The maker; an unknown name raises UsageError when it is called.

    Example:
        >>> maker("group")(48, 4).num_groups
        16
    """
    if not isinstance(norm, str):
        return norm

    def make(channels: int, ndim: int, steps: int | None = None) -> nn.Module:
        return arms.norm_layer(norm, channels, ndim, steps)

    return make


def plain_batch_norm(channels: int, ndim: int, steps: int | None = None) -> nn.Module:  # noqa: ARG001
    """A maker: batch norm without weight and bias.

    Example:
        >>> plain_batch_norm(8, 2).weight is None
        True
    """
    kind: Any = BatchNorm1d if ndim < 4 else BatchNorm2d
    layer: nn.Module = kind(channels, affine=False)
    return layer


class Noisy(nn.Module):
    """A norm layer whose output is scaled and shifted anew at every training step, a unit and a sample each.

    y = norm(x) * s + m;  m ~ U(mu - .1, mu + .1), s ~ N(sigma, .1) a sample and unit;
    mu ~ U(-.5, .5), sigma ~ U(1, 1.25) a step and unit

    Units are channels; a channel's positions share their noise. In evaluation there is none.

    Args:
        norm: the layer to disturb.
        shift: half the range of mu. Default 0.5.
        scale: largest sigma; the least is 1. Default 1.25.
        spread: half the range of m about mu, and the standard deviation of s about sigma. Default 0.1.

    Returns:
        From (N, C, *): the same shape and dtype.

    Example:
        >>> import torch
        >>> layer = Noisy(nn.BatchNorm1d(3))
        >>> x = torch.randn(64, 3)
        >>> torch.equal(layer.eval()(x), layer.norm(x))
        True

    Source:
        Santurkar et al. 2018, arXiv:1805.11604, section 2.2 and appendix A, "noisy" batch norm.
    """

    def __init__(self, norm: nn.Module, shift: float = 0.5, scale: float = 1.25, spread: float = 0.1) -> None:
        super().__init__()
        self.norm, self.shift, self.scale, self.spread = norm, shift, scale, spread

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        if not self.training:
            return y
        unit = (1, y.size(1), *(1,) * (y.dim() - 2))
        sample = (y.size(0), *unit[1:])
        mu = _uniform(y, unit, self.shift)
        sigma = 1 + (self.scale - 1) * torch.rand(unit, device=y.device, dtype=y.dtype)
        m = mu + _uniform(y, sample, self.spread)
        s = sigma + self.spread * torch.randn(sample, device=y.device, dtype=y.dtype)
        return y * s + m


def _uniform(like: Tensor, shape: tuple[int, ...], half: float) -> Tensor:
    return half * (2 * torch.rand(shape, device=like.device, dtype=like.dtype) - 1)


def noisy(norm: str | NormMaker = "batch") -> NormMaker:
    """The maker of an arm's layers, each disturbed as `Noisy` does.

    Args:
        norm: as for `maker`. Default "batch".

    Example:
        >>> noisy()(8, 4).norm.num_features
        8
    """
    make = maker(norm)

    def disturbed(channels: int, ndim: int, steps: int | None = None) -> nn.Module:
        return Noisy(make(channels, ndim, steps))

    return disturbed
