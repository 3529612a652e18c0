"""Numbers that a compiled training step saves for its backward and never computes again.

Computed again they would be others, where they come from buffers that the same step moves. torch.compile's partitioner
recomputes no operator that it does not know; where checkpointing would make it, these operators say so.
"""

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.checkpoint import _CachingTorchDispatchMode

from batchnorm.errors import RecomputationError

__all__ = ["kept"]

_LIBRARY = torch.library.Library("batchnorm", "FRAGMENT")
for _name in ("kept", "_kept"):
    _LIBRARY.define(f"{_name}(Tensor values) -> Tensor")


def kept(values: Tensor) -> Tensor:
    """The values, which no graph that torch.compile makes computes a second time.

    Raises:
        RecomputationError: (RuntimeError) activation checkpointing is in the graph, or repeats a compiled forward.
    """
    if not torch.compiler.is_compiling():
        return values
    result: Tensor = torch.ops.batchnorm.kept(values)
    return result


def _traced(values: Tensor) -> Tensor:
    if any(isinstance(mode, _CachingTorchDispatchMode) for mode in _get_current_dispatch_mode_stack()):
        raise RecomputationError(
            "torch.compile cannot checkpoint batch renormalization: its backward would compute r and d again from "
            "running statistics that have moved. Compile the layers around it, or checkpoint without compiling."
        )
    result: Tensor = torch.ops.batchnorm._kept(values)
    return result


def _computed(values: Tensor) -> Tensor:
    if torch._C._current_graph_task_id() != -1:
        raise RecomputationError(
            "activation checkpointing repeats a compiled forward of batch renormalization, which would compute r and d "
            "again from running statistics that have moved. Checkpoint this layer without compiling it."
        )
    return values.clone()


_LIBRARY.impl("kept", _traced, "CompositeImplicitAutograd")
_LIBRARY.impl("_kept", _computed, "CompositeExplicitAutograd")
torch.library.register_fake("batchnorm::_kept", torch.empty_like, lib=_LIBRARY)
