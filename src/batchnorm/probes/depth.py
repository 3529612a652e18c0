"""Moments and stable rank of hidden values, by depth."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from batchnorm.errors import DimensionError
from batchnorm.moments import Moments
from batchnorm.ops import reference
from batchnorm.probes.activations import activations
from batchnorm.probes.rank import stable_rank
from batchnorm.probes.seen import Seen

__all__ = ["moments_by_depth", "stable_rank_by_depth"]


def moments_by_depth(
    model: nn.Module, example: Any, at: Sequence[str], *, channel_dim: int = 1
) -> list[Seen[Moments]]:
    """The moments of inputs and outputs of some modules, a channel each, in the order of depth.

    mean_c = E[x_c],  var_c = E[(x_c - mean_c)^2],  second moment = var_c + mean_c^2

    With the blocks of a residual network as modules, the input is the skip path; with their branches, the output is
    what a branch adds. One forward pass without gradients. Memory: float64 copies of a block of values at a time.

    Args:
        model: runs in the modes its modules are in (see `batch_statistics`); put back as it was.
        example: a batch; a tuple or list gives the positional arguments, a dict the named ones.
        at: paths of modules, as `model.named_modules()` has them.
        channel_dim: of these tensors, default 1.

    Returns:
        A `Seen` for each call of each module, with `Moments`: count, mean (C,), var (C,), float64. The second moment
        over all channels is `moments.second_moment().mean()`.

    Raises:
        ArgumentError: (ValueError) a path leads to no module, or a lazy layer has not seen an input.
        ArgumentTypeError: (TypeError) model is not an nn.Module, or at is not a list of paths.
        DimensionError: (ValueError) a tensor has no dimension `channel_dim`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from batchnorm import probes
        >>> model = nn.Sequential(nn.Identity(), nn.BatchNorm1d(1, eps=1e-12))
        >>> for seen in probes.moments_by_depth(model, torch.tensor([[3.0], [5.0]]), ["0", "1"]):
        ...     print(seen.path, seen.output.second_moment())
        0 tensor([17.], dtype=torch.float64)
        1 tensor([1.], dtype=torch.float64)

    Source: De and Smith 2020, arXiv:2002.10444.
    """

    def measure(values: Tensor) -> Moments:
        if not -values.dim() <= channel_dim < values.dim():
            raise DimensionError(f"channel_dim: {channel_dim} is no dimension of shape {tuple(values.shape)}")
        return reference.moments(values, None, channel_dim % values.dim())

    return activations(model, example, at, measure=measure)


def stable_rank_by_depth(model: nn.Module, example: Any, at: Sequence[str]) -> list[Seen[Tensor]]:
    """The stable rank of inputs and outputs of some modules, in the order of depth.

    tr(M)^2 / ||M||_F^2,  M = H H^T / N

    One forward pass without gradients. Memory: see `stable_rank`.

    Args:
        model: runs in the modes its modules are in (see `batch_statistics`); put back as it was.
        example: a batch of N samples; a tuple or list gives the positional arguments, a dict the named ones.
        at: paths of modules, as `model.named_modules()` has them.

    Returns:
        A `Seen` for each call of each module, with 0-d tensors, float64, on the CPU.

    Raises:
        ArgumentError: (ValueError) a path leads to no module, or a lazy layer has not seen an input.
        ArgumentTypeError: (TypeError) model is not an nn.Module, or at is not a list of paths.
        DimensionError: (ValueError) a tensor has fewer than two dimensions.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from batchnorm import probes
        >>> [seen] = probes.stable_rank_by_depth(
        ...     nn.Sequential(nn.ReLU()), torch.tensor([[1.0, -1], [-1, 1]]), ["0"]
        ... )
        >>> seen.input, seen.output
        (tensor(1., dtype=torch.float64), tensor(2., dtype=torch.float64))

    Source: Daneshmand et al. 2020, arXiv:2003.01652.
    """
    return activations(model, example, at, measure=stable_rank)
