"""Find the batch norm layers of a model."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase

__all__ = ["batch_norm_paths", "is_batch_norm"]


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm: one of torch's, of ours, or of a class made from them; lazy ones count."""
    if isinstance(module, _BatchNorm):
        return True
    return isinstance(module, _LazyNormBase) and "BatchNorm" in type(module).__name__


def batch_norm_paths(model: nn.Module) -> tuple[str, ...]:
    """Paths of the batch norms in a model, in order of registration; a layer at two places is listed once."""
    return tuple(path for path, module in model.named_modules() if is_batch_norm(module))
