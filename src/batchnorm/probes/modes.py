"""Batch norms as in training, everything else as in evaluation."""

import contextlib
from collections.abc import Iterator

from torch import nn

from batchnorm.probes.evaluation import checked_model
from batchnorm.surgery.layers import is_batch_norm

__all__ = ["batch_statistics"]


@contextlib.contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside the `with` block batch norms use the batch's statistics, and everything else runs as in evaluation.

    So a probe sees what the norms do in training, and no dropout blurs it. Training flags are put back at the end.
    A plain forward pass inside still moves the running statistics; probes put them back, and `bn.no_stats_update` keeps
    them still.

    Args:
        model: holds the layers, or is one; batch norms are torch's, this package's, and classes made from them.

    Raises:
        ArgumentTypeError: (TypeError) model is not an nn.Module.
        ArgumentError: (ValueError) a lazy layer has not seen its first input.

    Example:
        >>> from torch import nn
        >>> from batchnorm import probes
        >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()).eval()
        >>> with probes.batch_statistics(model):
        ...     [module.training for module in model]
        [True, False]
        >>> model[0].training
        False
    """
    checked_model(model)
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        for module in model.modules():
            if is_batch_norm(module):
                module.train()
        yield
    finally:
        for module, training in flags:
            module.training = training
