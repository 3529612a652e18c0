"""How a residual block joins its skip path and its branch."""

import math

import torch
from torch import Tensor, nn

from batchnorm.errors import UsageError

__all__ = ["JOINS", "SkipInit", "Weighted", "join"]


class Weighted(nn.Module):
    """y = skip * x + branch * f, with two constants.

    Example:
        >>> import torch
        >>> Weighted(2.0, 0.5)(torch.ones(1), torch.ones(1))
        tensor([2.5000])
    """

    def __init__(self, skip: float, branch: float) -> None:
        super().__init__()
        self.skip, self.branch = skip, branch

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return self.skip * x + self.branch * f

    def extra_repr(self) -> str:
        return f"skip={self.skip:g}, branch={self.branch:g}"


class SkipInit(nn.Module):
    """y = x + alpha * f, with alpha learned.

    Args:
        alpha: where it starts. Default 0.

    Example:
        >>> import torch
        >>> SkipInit()(torch.ones(1), torch.ones(1)).item()
        1.0

    Source: De & Smith 2020, arXiv:2002.10444, section 4.
    """

    def __init__(self, alpha: float = 0.0) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return x + self.alpha * f


JOINS = ("plain", "skipinit", "halved", "rescale")


def join(kind: str, block: int, blocks: int, alpha: float = 0.0) -> nn.Module:
    """The join of one block among several.

    Args:
        kind: "plain", x + f; "skipinit", x + alpha f with alpha learned; "halved", (x + f) / sqrt(2); "rescale",
            sqrt(1 - b^2) x + b f with b^2 = 1 / (block + blocks).
        block: number of the block, from 1.
        blocks: how many there are, L.
        alpha: where that of "skipinit" starts. Default 0.

    Returns:
        A module of x and f.

    Raises:
        UsageError: (ValueError) an unknown kind.

    Example:
        >>> join("rescale", 1, 3)
        Weighted(skip=0.866025, branch=0.5)

    Source: De & Smith 2020, arXiv:2002.10444; Shao et al. 2020, "Is normalization indispensable for training deep
    neural networks?", section 3, the constants without the learned ones.
    """
    if kind not in JOINS:
        raise UsageError(f"join: expected one of {', '.join(JOINS)}, got {kind!r}")
    if kind == "skipinit":
        return SkipInit(alpha)
    if kind == "halved":
        return Weighted(math.sqrt(0.5), math.sqrt(0.5))
    if kind == "rescale":
        share = 1 / (block + blocks)
        return Weighted(math.sqrt(1 - share), math.sqrt(share))
    return Weighted(1.0, 1.0)
