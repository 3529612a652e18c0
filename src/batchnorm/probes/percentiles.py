"""Percentiles of activations, which show where the values of a layer lie and whether they stay there."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.errors import ArgumentError
from batchnorm.probes.activations import activations
from batchnorm.probes.evaluation import wide
from batchnorm.probes.seen import Seen

__all__ = ["activation_percentiles", "percentiles"]

_USUAL = (15, 50, 85)  # Ioffe and Szegedy 2015, figure 1


def activation_percentiles(
    model: nn.Module, example: Any, at: Sequence[str], *, percentiles: Sequence[float] = _USUAL
) -> list[Seen[Tensor]]:
    """The percentiles of inputs and outputs of some modules, over all values of a tensor together.

    One forward pass without gradients. Memory: one recorded tensor at a time, in float64, sorted.

    Args:
        model: runs in the modes its modules are in (see `batch_statistics`); put back as it was.
        example: a batch; a tuple or list gives the positional arguments, a dict the named ones.
        at: paths of modules, as `model.named_modules()` has them.
        percentiles: Q numbers from 0 to 100, default 15, 50 and 85.

    Returns:
        A `Seen` for each call of each module, with (Q,) tensors, float64, on the CPU.

    Raises:
        ArgumentError: (ValueError) a percentile outside 0 to 100, a path that leads to no module, or a lazy layer that
            has not seen an input.
        ArgumentTypeError: (TypeError) model is not an nn.Module, or at is not a list of paths.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from batchnorm import probes
        >>> [seen] = probes.activation_percentiles(nn.Sequential(nn.ReLU()), torch.arange(-10.0, 11), ["0"])
        >>> seen.input, seen.output
        (tensor([-7.,  0.,  7.], dtype=torch.float64), tensor([0., 0., 7.], dtype=torch.float64))

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, figure 1(b, c).
    """
    wanted = _checked(percentiles)
    return activations(model, example, at, measure=lambda values: _percentiles(values, wanted))


def percentiles(values: Tensor, percentiles: Sequence[float] = _USUAL) -> Tensor:
    """The percentiles of a tensor's values, with linear interpolation, for tensors of any size.

    Args:
        values: any shape and type.
        percentiles: Q numbers from 0 to 100, default 15, 50 and 85.

    Returns:
        (Q,), float64, on the CPU; NaN where there is no value, or a NaN among them.

    Raises:
        ArgumentError: (ValueError) a percentile outside 0 to 100.

    Example:
        >>> import torch
        >>> from batchnorm import probes
        >>> probes.percentiles(torch.arange(5.0), [0, 30, 100])
        tensor([0.0000, 1.2000, 4.0000], dtype=torch.float64)

    Source: Hyndman and Fan 1996, "Sample quantiles in statistical packages", definition 7, which numpy's default is.
    """
    return _percentiles(values, _checked(percentiles))


def _percentiles(values: Tensor, wanted: Tensor) -> Tensor:
    ordered = wide(values).flatten().sort().values.cpu()  # torch.quantile refuses more than 16 million values
    if not len(ordered) or ordered[-1].isnan():  # NaN is sorted last
        return torch.full_like(wanted, torch.nan)
    positions = wanted / 100 * (len(ordered) - 1)
    low, high = ordered[positions.floor().long()], ordered[positions.ceil().long()]
    # Equal neighbours are told apart from others, since infinity - infinity is NaN.
    return low.where(low == high, low.lerp(high, positions.frac())).double()


def _checked(percentiles: Sequence[float]) -> Tensor:
    wanted = torch.tensor([float(value) for value in percentiles], dtype=torch.float64, device="cpu")
    if not len(wanted) or not ((wanted >= 0) & (wanted <= 100)).all():
        raise ArgumentError(f"percentiles: expected numbers from 0 to 100, got {list(percentiles)}")
    return wanted
