"""One batch cut among ranks: what each computes on its part, and the numbers of the whole batch to compare with."""

from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

import batchnorm as bn
from batchnorm.functional import normalize_and_track
from batchnorm.moments import RunningStats
from batchnorm.ops import Affine
from batchnorm.reducers import GroupReducer
from tests.contract.oracle import oracle

CHANNELS = 3


@dataclass(frozen=True)
class Case:
    sizes: tuple[int, ...] = (5, 1, 0, 4)
    positions: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    act: str | None = None
    residual: bool = False
    mask: bool = False
    channels_last: bool = False
    affine: bool = True
    shift: float = 3.0
    backend: str = "auto"
    gather_up_to: int = 64

    def __str__(self) -> str:
        default = Case()
        shown = {
            name: value
            for name, value in vars(replace(self)).items()
            if value != getattr(default, name) or name == "sizes"
        }
        return "-".join(f"{name}={value}" for name, value in shown.items()).replace(" ", "")


@dataclass
class Numbers:
    output: Tensor
    x: Tensor
    residual: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    tracked: int


def whole(case: Case) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    shape = (sum(case.sizes), CHANNELS, *case.positions)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    form = {4: torch.channels_last, 5: torch.channels_last_3d}.get(len(shape), torch.contiguous_format)
    form = form if case.channels_last else torch.contiguous_format
    mask = torch.rand((shape[0], *case.positions), generator=generator) < 0.6 if case.mask else None
    return {
        "x": (normal(*shape) + case.shift).to(case.dtype).contiguous(memory_format=form),
        "residual": normal(*shape).to(case.dtype) if case.residual else None,
        "mask": mask,
        "weight": (1 + 0.3 * normal(CHANNELS)).to(case.dtype) if case.affine else None,
        "bias": (0.3 * normal(CHANNELS)).to(case.dtype) if case.affine else None,
        "cotangent": normal(*shape).to(case.dtype),
    }


def mine(case: Case, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.split(list(case.sizes))[dist.get_rank()]


def grad(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.grad


def on_this_rank(case: Case, process_group=None) -> Numbers:
    given = whole(case)
    x = mine(case, given["x"]).detach().requires_grad_()
    residual = mine(case, given["residual"])
    if residual is not None:
        residual = residual.detach().requires_grad_()
    weight, bias = (t if t is None else t.requires_grad_() for t in (given["weight"], given["bias"]))
    stats = RunningStats(torch.zeros(CHANNELS), torch.ones(CHANNELS), torch.tensor(0))
    affine = Affine(weight, bias, residual, bn.activations.resolve(case.act), mine(case, given["mask"]))
    reducer = GroupReducer(process_group, case.gather_up_to)
    with bn.backend(case.backend):
        output = normalize_and_track(x, stats, affine, True, 0.1, 1e-5, 1, reducer)
    (output * mine(case, given["cotangent"])).sum().backward()
    return Numbers(
        output.detach(),
        x.grad,
        grad(residual),
        grad(weight),
        grad(bias),
        stats.mean,
        stats.var,
        int(stats[2]),
    )


def of_the_whole(case: Case) -> Numbers:
    """By definition, in float64, in one process."""
    given = whole(case)
    wide = {
        name: tensor if tensor is None or name == "mask" else tensor.double().requires_grad_()
        for name, tensor in given.items()
    }
    cotangent = wide.pop("cotangent")
    expected = oracle(**wide, act=case.act)
    (expected.output * cotangent).sum().backward()
    return Numbers(
        expected.output.detach(),
        wide["x"].grad,
        grad(wide["residual"]),
        grad(wide["weight"]),
        grad(wide["bias"]),
        0.1 * expected.mean,
        0.9 + 0.1 * expected.unbiased_var,
        1,
    )
