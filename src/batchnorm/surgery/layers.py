"""Find the batch norm layers of a model."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchnorm.nn.tracked import TrackedNorm

__all__ = ["batch_norm_paths", "is_batch_norm"]

# torch's lazy classes are batch norms by name only, until their first input.
_CLASSES = (_BatchNorm, TrackedNorm, nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm: one of torch's, of ours, or of a class made from them; lazy ones count."""
    return isinstance(module, _CLASSES)


def batch_norm_paths(model: nn.Module) -> tuple[str, ...]:
    """Paths of the batch norms in a model, in order of registration; a layer at two places is listed once."""
    return tuple(path for path, module in model.named_modules() if is_batch_norm(module))
