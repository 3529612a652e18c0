"""Moments of a batch, a channel each: the (C,)-sized numbers that every normalization policy works on."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["UNTRACKED", "Moments", "RunningStats", "pool"]


class RunningStats(NamedTuple):
    """The buffers of a layer: running mean and variance (C,), and the counter of batches."""

    mean: Tensor | None
    var: Tensor | None
    num_batches_tracked: Tensor | None = None


UNTRACKED = RunningStats(None, None)


@dataclass(frozen=True)
class Moments:
    """Count, mean and biased variance of each channel.

    Args:
        count: values a channel; an int, a 0-d tensor where a mask decides it, or (C,) where channels differ.
        mean: (C,), float64 where the device has it.
        var: (C,), the biased variance, sum((x - mean)^2) / count.

    Example:
        >>> import torch
        >>> from batchnorm.moments import Moments
        >>> Moments(4, torch.zeros(1), torch.ones(1)).unbiased_var()
        tensor([1.3333])
    """

    count: int | Tensor
    mean: Tensor
    var: Tensor

    def unbiased_var(self) -> Tensor:
        """Return var * count / (count - 1), what running statistics keep; var itself for one value."""
        if isinstance(self.count, Tensor):
            return self.var * (self.count / (self.count - 1).clamp(min=1))
        return self.var * (self.count / torch.sym_max(self.count - 1, 1))

    def second_moment(self) -> Tensor:
        """Return var + mean^2, the mean of the squares; (C,)."""
        return self.var + self.mean.square()


def pool(count: Tensor, mean: Tensor, var: Tensor) -> Moments:
    """The moments of a batch from those of its parts, in one order and so to the same bits for the same parts.

    mean = sum(count_p mean_p) / count;  var = sum(count_p (var_p + (mean_p - mean)^2)) / count

    Args:
        count: (P,) values a channel of each part, in mean's dtype, or (P, C) where channels differ; a part may be
            empty.
        mean: (P, C).
        var: (P, C), biased.

    Returns:
        Moments whose count is a 0-d tensor, or (C,).

    Example:
        >>> import torch
        >>> from batchnorm.moments import pool
        >>> pool(torch.tensor([1.0, 3.0]), torch.tensor([[4.0], [0.0]]), torch.zeros(2, 1)).var
        tensor([3.])

    Source: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", eq. 2.1.
    """
    total = count.sum(0)
    share = count / total.clamp(min=1)
    if share.dim() == 1:
        share = share.unsqueeze(1)
    pooled = (share * mean).sum(0)
    return Moments(total, pooled, (share * (var + (mean - pooled).square())).sum(0))
