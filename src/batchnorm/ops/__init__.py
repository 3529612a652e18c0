"""The four operators that every layer and tool stands on, and which backend runs them.

| operator | gives |
|---|---|
| `moments` | per channel: count, mean, biased variance |
| `normalize` | act((x - mean) * invstd * weight + bias + residual) |
| `grad_moments` | per channel: sum_dy, sum_dy_xmu, after the activation's own backward |
| `grad_input` | gradients for x and residual |

A backend is a module that has these, and fused `forward` (batch statistics), `evaluate` (given ones) and `backward`.
`select` decides which one a call of dense tensors in eager mode gets, once, in its forward:

| tensors | backend |
|---|---|
| on the CPU, not empty, residual of the input's dtype | `native`, where it is available |
| all others | `reference` |

Calls that anything traces, transforms or watches (`is_plain` is False) are always the reference's, which is also the
specification and what second derivatives go through.
"""

from batchnorm.ops.choice import Backend, backend, select
from batchnorm.ops.eager import (
    in_function_transform,
    is_batched,
    is_plain,
    unseen_by_selective_checkpointing,
)
from batchnorm.ops.reference import Affine, invstd_of, wide_dtype

__all__ = [
    "Affine",
    "Backend",
    "backend",
    "in_function_transform",
    "invstd_of",
    "is_batched",
    "is_plain",
    "select",
    "unseen_by_selective_checkpointing",
    "wide_dtype",
]
