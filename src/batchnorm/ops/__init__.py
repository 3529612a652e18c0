"""The four operators that every layer and tool stands on.

| operator | gives |
|---|---|
| `moments` | per channel: count, mean, biased variance |
| `normalize` | act((x - mean) * invstd * weight + bias + residual) |
| `grad_moments` | per channel: sum_dy, sum_dy_xmu, after the activation's own backward |
| `grad_input` | gradients for x and residual |

`reference` is the specification in plain torch; it serves every device and dtype.
"""

from batchnorm.ops.eager import in_function_transform, is_plain
from batchnorm.ops.reference import Affine, grad_input, grad_moments, moments, normalize, wide_dtype

__all__ = [
    "Affine",
    "grad_input",
    "grad_moments",
    "in_function_transform",
    "is_plain",
    "moments",
    "normalize",
    "wide_dtype",
]
