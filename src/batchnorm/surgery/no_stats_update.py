"""Forward passes that leave the running statistics as they are."""

import contextlib
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from batchnorm.errors import ArgumentError, ArgumentTypeError
from batchnorm.surgery.layers import is_batch_norm

__all__ = ["no_stats_update"]


@contextlib.contextmanager
def no_stats_update(model: nn.Module) -> Iterator[None]:
    """Inside the `with` block no batch norm of the model moves its running statistics or its counter.

    Training still normalizes with the batch's statistics and gradients still flow; `train()` and `eval()` may be
    called inside. For every pass over data that has been counted or must not count: the second pass of
    sharpness-aware minimization, a teacher in training mode, a probe of the loss.

    Batch norms are torch's, this package's, and classes made from them. What a scripted or exported graph does is out
    of reach. The switch is `track_running_stats` of each layer, so that it holds in every thread that uses the model,
    and a copy made inside keeps it for good; blocks may be nested.

    Args:
        model: holds the layers, or is one.

    Raises:
        ArgumentTypeError: (TypeError) model is not an nn.Module.
        ArgumentError: (ValueError) a lazy layer has not seen its first input, which makes its buffers by that switch.

    Example:
        >>> import torch, batchnorm as bn
        >>> layer = bn.BatchNorm1d(3)
        >>> with bn.no_stats_update(layer):
        ...     y = layer(torch.randn(5, 3))
        >>> layer.num_batches_tracked
        tensor(0)

    Source: Foret et al. 2021, arXiv:2010.01412, takes two passes a step; the authors' code counts the first alone.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"no_stats_update() takes an nn.Module, got {type(model).__name__}")
    layers: list[_NormBase] = []
    for path, layer in model.named_modules():
        if not is_batch_norm(layer):
            continue
        assert isinstance(layer, _NormBase)
        if layer.running_mean is not None and is_lazy(layer.running_mean):
            raise ArgumentError(
                f"no_stats_update() needs layers that have seen an input; {path or 'the model'} is a lazy layer "
                "that has not: run the model once before"
            )
        layers.append(layer)
    before = [layer.track_running_stats for layer in layers]
    try:
        for layer in layers:
            layer.track_running_stats = False
        yield
    finally:
        for layer, tracked in zip(layers, before, strict=True):
            layer.track_running_stats = tracked
