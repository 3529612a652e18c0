"""Batch norm by its definition in float64, written apart from the library: gradients come from autograd."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# gelu without torch's 1 + erf and 1 + tanh, which cancel in the left tail.
ACTS = {
    None: lambda z: z,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "gelu": lambda z: 0.5 * z * torch.erfc(-(0.5**0.5) * z),
    "gelu_tanh": lambda z: z * torch.sigmoid((8 / torch.pi) ** 0.5 * (z + 0.044715 * z**3)),
    "hardswish": F.hardswish,
    "elu": F.elu,
}


@dataclass
class Result:
    output: Tensor
    mean: Tensor
    biased_var: Tensor
    unbiased_var: Tensor
    # |weight * xhat| + |bias| + |residual|, the scale that the error bound of the output is measured in
    magnitude: Tensor


def oracle(
    x: Tensor,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    act: str | None = None,
    mask: Tensor | None = None,
    running: tuple[Tensor, Tensor] | None = None,
    eps: float = 1e-5,
    channel_dim: int = 1,
) -> Result:
    """`mask` has x's shape without the channel; `running` makes it evaluation. All in float64, values first."""
    values = x.double().movedim(channel_dim, -1)
    valid = (
        torch.ones(values.shape[:-1], dtype=torch.bool) if mask is None else mask.expand(values.shape[:-1])
    )
    rows = values[valid]
    count = rows.shape[0]
    # The mean of float64 values near 1e6 is exact to 1e-10 only; remove the first row before averaging.
    anchor = rows[:1].detach() if count else torch.zeros(1, values.shape[-1], dtype=torch.float64)
    centred = rows - anchor
    mean = centred.mean(0)
    var = ((centred - mean) ** 2).mean(0)
    used_mean, used_var = (anchor[0] + mean, var) if running is None else (r.double() for r in running)
    xhat = (rows - anchor - mean) if running is None else rows - used_mean
    xhat = xhat / (used_var + eps) ** 0.5
    z = xhat if weight is None else xhat * weight.double()
    magnitude = z.abs()
    if bias is not None:
        z, magnitude = z + bias.double(), magnitude + bias.double().abs()
    if residual is not None:
        added = residual.double().movedim(channel_dim, -1)[valid]
        z, magnitude = z + added, magnitude + added.abs()

    def back(part: Tensor) -> Tensor:
        whole = torch.zeros_like(values)
        whole[valid] = part
        return whole.movedim(-1, channel_dim)

    return Result(
        back(ACTS[act](z)),
        (anchor[0] + mean).detach(),
        var.detach(),
        (var * count / max(count - 1, 1)).detach(),
        back(magnitude).detach(),
    )
