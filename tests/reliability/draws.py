"""Random calls of batch norm: what is drawn, and the tensors of a draw."""

import random
from dataclasses import dataclass, fields

import torch
from torch import Tensor

TYPES = (torch.float32,) * 4 + (torch.float64, torch.bfloat16, torch.bfloat16, torch.float16)
ACTS = (None, None, "relu", "relu6", "leaky_relu", "silu", "gelu", "gelu_tanh", "hardswish", "elu")
LAYERS = ("BatchNorm", "BatchNorm", "SyncBatchNorm", "FrozenBatchNorm", "DomainBatchNorm")
SIZES = (1, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 65, 100)
# What a type resolves: powers of ten of the standard deviation, and means in standard deviations.
SCALES = {
    torch.float16: (-2, 1.5),
    torch.bfloat16: (-30, 30),
    torch.float32: (-30, 30),
    torch.float64: (-30, 30),
}
FURTHEST = {torch.float16: 2.0**9, torch.bfloat16: 2.0**6, torch.float32: 1e6, torch.float64: 1e3}
MOST = 2000  # values of a tensor: the sweep is made of many small ones


@dataclass(frozen=True)
class Draw:
    seed: int
    kind: str  # "function", or a layer's name without its rank
    shape: tuple[int, ...]  # (N, C, *)
    dtype: torch.dtype
    parameter_dtype: torch.dtype
    layout: str
    backend: str
    training: bool
    tracks: bool
    affine: str
    act: str | None
    residual: bool
    mask: bool
    momentum: float | None
    batches: int  # that the layer has seen
    eps: float
    scale: float
    distance: float  # of the mean, in standard deviations
    spread: str
    bad: float | None

    def __str__(self) -> str:
        return ", ".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))


def draw(seed: int) -> Draw:
    rng = random.Random(seed)
    dtype = rng.choice(TYPES)
    kind = rng.choice(("function", *LAYERS))
    shape = _shape(rng)
    layouts = ["contiguous", "contiguous", "strided", "negated"]
    layouts += ["channels_last"] * 3 if len(shape) >= 4 else []
    layouts += ["last_dim"] * 3 if kind in ("function", "BatchNorm") else []
    low, high = SCALES[dtype]
    distance = rng.choice((0.0, 1.0, 10 ** rng.uniform(0, 6)))
    half = dtype in (torch.float16, torch.bfloat16)
    training = rng.random() < 0.75
    tracks = (
        rng.random() < 0.85
        or kind in ("FrozenBatchNorm", "DomainBatchNorm")
        or (kind == "function" and not training)
    )
    return Draw(
        seed=seed,
        kind=kind,
        shape=shape,
        dtype=dtype,
        parameter_dtype=rng.choice((dtype, torch.float32)) if half else dtype,
        layout=rng.choice(layouts),
        backend=rng.choice(("auto",) * 5 + ("reference",)),
        training=training,
        tracks=tracks,
        affine=rng.choice(("both", "both", "weight", "none")),
        act=rng.choice(ACTS),
        residual=rng.random() < 0.4,
        mask=rng.random() < 0.3,
        momentum=rng.choice(
            (0.1, 0.1, 0.01, 1.0, 0.0) if kind == "function" else (0.1, 0.01, 1.0, None, None)
        ),
        batches=rng.choice((0, 1, 9)),
        eps=rng.choice((1e-5, 1e-5, 1e-3, 1e-12, 1e-38)),
        scale=10 ** rng.choice((0.0, rng.uniform(low, high))),
        distance=min(distance, FURTHEST[dtype]),
        spread=rng.choice(("normal", "normal", "normal", "constant channel", "outlier", "integers")),
        bad=rng.choice((float("nan"), float("inf"), -float("inf"))) if rng.random() < 0.05 else None,
    )


def _shape(rng: random.Random) -> tuple[int, ...]:
    rank = rng.choice((2, 3, 4, 4, 5))
    samples = 0 if rng.random() < 0.02 else rng.choice(SIZES)
    shape = [samples, rng.choice(SIZES), *(rng.choice(SIZES[:13]) for _ in range(rank - 2))]
    while max(1, shape[0]) * torch.Size(shape[1:]).numel() > MOST:
        largest = shape.index(max(shape))
        shape[largest] = max(1, shape[largest] // 2)
    return tuple(shape)


@dataclass
class Tensors:
    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    residual: Tensor | None
    mask: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    grad_output: Tensor


def tensors(case: Draw) -> Tensors:
    """All of (N, C, *) in memory as the layout says, but "last_dim", which is the caller's to move."""
    generator = torch.Generator().manual_seed(case.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    channels = case.shape[1]
    ones = [1] * (len(case.shape) - 2)
    scale = case.scale * (0.5 + torch.rand(channels, generator=generator, dtype=torch.float64))
    centre = case.distance * scale * normal(channels).sign()
    values = normal(*case.shape)
    if case.spread == "integers":
        values = values.round()
    elif case.spread == "constant channel":
        values[:, 0] = 1.0
    elif case.spread == "outlier" and values.numel():
        values.view(-1)[case.seed % values.numel()] *= 1000.0
    largest = 0.9 * min(torch.finfo(case.dtype).max, torch.finfo(torch.float32).max)
    x = (values * scale.view(-1, *ones) + centre.view(-1, *ones)).clamp(-largest, largest).to(case.dtype)
    if case.bad is not None and x.numel():
        x.view(-1)[case.seed % x.numel()] = case.bad
    mask = torch.rand((case.shape[0], *case.shape[2:]), generator=generator) < 0.7 if case.mask else None
    kept = torch.float64 if case.dtype == torch.float64 else torch.float32
    parameters = (1 + normal(channels), normal(channels))
    weight, bias = (parameter.to(case.parameter_dtype) for parameter in parameters)
    return Tensors(
        laid_out(x, case.layout),
        weight if case.affine != "none" else None,
        bias if case.affine == "both" else None,
        laid_out(normal(*case.shape).to(case.dtype), case.layout) if case.residual else None,
        mask,
        (0.9 * centre).to(kept),
        (scale.square() * 1.2).clamp(max=1e38).to(kept),
        normal(*case.shape).to(case.dtype),
    )


def laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    if layout == "strided":
        return torch.stack([x, torch.zeros_like(x)], dim=-1)[..., 0]
    if layout == "negated":
        return (-x)._neg_view()
    return x
