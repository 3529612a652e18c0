"""The case table: every pair of options meets in at least one case."""

import itertools
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

OPTIONS: dict[str, tuple[Any, ...]] = {
    "training": (True, False),
    "running": (True, False),
    "affine": ("both", "weight", "none"),
    "act": (None, "relu", "relu6", "leaky_relu", "silu", "gelu", "gelu_tanh", "hardswish", "elu"),
    "residual": (False, True),
    "mask": (False, True),
    "dtype": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
    "layout": ("contiguous", "channels_last", "strided", "last_dim"),
    "shape": (
        (8, 5),
        (6, 4, 7),
        (4, 3, 5, 6),
        (2, 3, 2, 4, 3),
        (5, 1, 3, 3),
        (64, 7, 1, 1),
        (2, 33, 1),
        (3, 2, 200, 31),
    ),
    "shift": (0.0, 30.0),  # mean in standard deviations; 30 stays within what bfloat16 resolves
}


@dataclass(frozen=True)
class Case:
    training: bool
    running: bool
    affine: str
    act: str | None
    residual: bool
    mask: bool
    dtype: torch.dtype
    layout: str
    shape: tuple[int, ...]
    shift: float

    def __str__(self) -> str:
        shown = [
            "train" if self.training else "eval",
            "running" if self.running else "batch",
            self.affine,
            self.act or "linear",
            "residual" if self.residual else "",
            "mask" if self.mask else "",
            str(self.dtype).removeprefix("torch."),
            self.layout,
            "x".join(map(str, self.shape)),
            f"mean{self.shift:g}",
        ]
        return "-".join(part for part in shown if part)


@dataclass
class Tensors:
    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    residual: Tensor | None
    mask: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    channel_dim: int


def _pairs(row: dict[str, Any]) -> set[tuple[tuple[str, Any], tuple[str, Any]]]:
    return set(itertools.combinations(sorted(row.items(), key=lambda item: item[0]), 2))


def _possible(row: dict[str, Any]) -> bool:
    # Evaluation needs running statistics, and channels_last is a memory format of 4-D and 5-D tensors only.
    if not row["training"] and not row["running"]:
        return False
    return row["layout"] != "channels_last" or len(row["shape"]) >= 4


def _pairwise() -> list[Case]:
    rng = random.Random(20150211)
    wanted: set[Any] = set()
    for (a, va), (b, vb) in itertools.combinations(sorted(OPTIONS.items()), 2):
        wanted |= {((a, x), (b, y)) for x in va for y in vb}
    never = {
        pair
        for pair in wanted
        if dict(pair) == {"running": False, "training": False}
        or (
            ("layout", "channels_last") in pair
            and any(name == "shape" and len(value) < 4 for name, value in pair)
        )
    }
    wanted -= never
    cases: list[Case] = []
    while wanted:
        seed_pair = dict(rng.choice(sorted(wanted, key=repr)))
        rows = [{name: rng.choice(values) for name, values in OPTIONS.items()} | seed_pair for _ in range(60)]
        best = max(
            (row for row in rows if _possible(row)), key=lambda row: len(_pairs(row) & wanted), default=None
        )
        if best is not None:
            wanted -= _pairs(best)
            cases.append(Case(**best))
    return cases


CASES = _pairwise()


def make(case: Case, seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    channels = case.shape[1]
    wide = torch.float64 if case.dtype == torch.float64 else torch.float32
    spread = 0.5 + torch.rand(channels, generator=generator, dtype=torch.float64)
    x = normal(case.shape).movedim(1, -1) * spread + case.shift * spread * normal((channels,)).sign()
    x = _laid_out(x.movedim(-1, 1).to(case.dtype), case.layout)
    residual = _laid_out(normal(case.shape).to(case.dtype), case.layout) if case.residual else None
    channel_dim = -1 if case.layout == "last_dim" else 1
    positions = [size for dim, size in enumerate(x.shape) if dim != channel_dim % x.dim()]
    mask = torch.rand(positions, generator=generator) < 0.7 if case.mask else None
    if mask is not None:
        mask.view(-1)[:2] = True
    return Tensors(
        x,
        (1 + 0.3 * normal((channels,))).to(case.dtype) if case.affine != "none" else None,
        (0.3 * normal((channels,))).to(case.dtype) if case.affine == "both" else None,
        residual,
        mask,
        (case.shift * spread * 0.9).to(wide) if case.running else None,
        (spread**2 * 1.2).to(wide) if case.running else None,
        channel_dim,
    )


def _laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    if layout == "last_dim":
        return x.movedim(1, -1).contiguous()
    if layout == "strided":
        return torch.stack([x, torch.zeros_like(x)], dim=-1)[..., 0]
    return x.contiguous()
