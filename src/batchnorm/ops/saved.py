"""The (C,)-sized numbers of one call as one tensor, so that autograd saves and checks one instead of four.

Rows in wide dtype: mean, invstd, biased var, and the count in the first place of the last row; after a forward with
given statistics only mean and invstd, which is how backward knows that they were constants.
"""

import torch
from torch import Tensor

from batchnorm.moments import Moments

__all__ = ["BATCH_ROWS", "GIVEN_ROWS", "is_from_batch", "join", "moments_of"]

BATCH_ROWS, GIVEN_ROWS = 4, 2


def join(batch: Moments, invstd: Tensor) -> Tensor:
    """The rows after a forward with batch statistics."""
    count = torch.as_tensor(batch.count).to(invstd).expand_as(invstd)
    return torch.stack([batch.mean, invstd, batch.var, count])


def is_from_batch(rows: Tensor) -> bool:
    """Whether these are the batch's own statistics, through which gradients flow."""
    return rows.size(0) == BATCH_ROWS


def moments_of(rows: Tensor, x: Tensor, masked: bool) -> Moments:
    """The moments of the batch x; the count is a tensor where a mask decided it."""
    mean, _, var, count = rows.unbind()
    if masked:
        return Moments(count[0], mean, var)
    return Moments(x.numel() // max(mean.numel(), 1), mean, var)
