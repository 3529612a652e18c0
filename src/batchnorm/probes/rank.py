"""The stable rank of a batch's hidden values: in how many directions its samples still differ."""

import torch
from torch import Tensor

from batchnorm.errors import DimensionError
from batchnorm.probes.evaluation import wide

__all__ = ["stable_rank"]


def stable_rank(values: Tensor) -> Tensor:
    """The stable rank of the hidden values of a batch: 1 where all samples lie on a line, at most min(N, d).

    tr(M)^2 / ||M||_F^2,  M = H H^T / N,  H = values transposed, (d, N)

    Memory: the values in float64, and a matrix of min(N, d) rows and columns.

    Args:
        values: (N, d); further dimensions are flattened into d.

    Returns:
        A 0-d tensor, float64, on the CPU; NaN where all values are 0, or one is not finite.

    Raises:
        DimensionError: (ValueError) values have fewer than two dimensions.

    Example:
        >>> import torch
        >>> from batchnorm import probes
        >>> probes.stable_rank(torch.eye(3)), probes.stable_rank(torch.ones(3, 3))
        (tensor(3., dtype=torch.float64), tensor(1., dtype=torch.float64))

    Source: Daneshmand et al. 2020, arXiv:2003.01652.
    """
    if values.dim() < 2:
        raise DimensionError(f"values: expected (N, d, ...), got shape {tuple(values.shape)}")
    rows = wide(values).flatten(1)
    if rows.numel() == 0:
        return torch.tensor(torch.nan, dtype=torch.float64)
    rows = rows / rows.abs().max()  # the rank has no scale; squares of squares have a range
    # The two products have the same trace and the same norm: their eigenvalues differ by zeros only.
    gram = rows @ rows.T if rows.size(0) <= rows.size(1) else rows.T @ rows
    return (gram.trace().square() / gram.square().sum()).double().cpu()
