"""Evaluation as torch's own operators: what torch.export, ONNX and torch.jit.trace write into files.

A file is read where this package is not installed, by tools that know batch norm by that one node: they fold it into
the convolution before it, quantize it, or have a kernel for it. It computes as torch's layer does.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from batchnorm.ops.eager import in_function_transform
from batchnorm.ops.reference import Affine, compute_dtype

__all__ = ["evaluate", "serves"]

# Where an activation's own formula, which keeps more digits, is several nodes.
_ONE_NODE: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
}


def serves(affine: Affine) -> bool:
    """Whether a call goes into a file as torch's operators; with a mask, which they do not have, as the reference."""
    writing = torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None
    return writing and affine.mask is None and not in_function_transform()


def evaluate(x: Tensor, mean: Tensor, var: Tensor, affine: Affine, eps: float, channel_dim: int) -> Tensor:
    """The output of `reference.evaluate`."""
    weight, bias, residual, act, _ = affine
    # Everything before the channels is samples: no transposition.
    seen = x if channel_dim == 1 else x.reshape(-1, *x.shape[channel_dim:])
    # torch wants the (C,)-sized tensors in one type: that of the input, or float32 for a narrow one.
    dtype = compute_dtype(x)
    mean_, var_, weight, bias = (
        values if values is None or values.dtype is dtype else values.to(dtype)
        for values in (mean, var, weight, bias)
    )
    output = F.batch_norm(seen, mean_, var_, weight, bias, eps=eps)
    if seen is not x:
        output = output.reshape(x.shape)
    if residual is not None:
        output = output + residual
    if act is not None:
        one_node = _ONE_NODE.get(act.name)
        output = act.forward(output) if one_node is None else one_node(output)
    return output if output.dtype is x.dtype else output.to(x.dtype)
