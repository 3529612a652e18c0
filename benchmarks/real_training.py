"""What real training meets, with torch's layers and with these: one row each, measured here.

Run: python benchmarks/real_training.py
"""

import copy
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from accumulation import MOMENTUM, PARTS, noise
from torch import nn
from torch.utils.checkpoint import checkpoint

import batchnorm as bn

Norm = Callable[..., nn.Module]
BOTH = (nn.BatchNorm1d, bn.BatchNorm1d)


def normal(*shape: int, seed: int = 0, mean: float = 0.0) -> torch.Tensor:
    """Return independent values of variance 1."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + mean


def tried(call: Callable[[], str]) -> str:
    """Return what the call says, or the error it ends in."""
    try:
        return call()
    except Exception as error:
        return type(error).__name__


def checkpointing() -> list[str]:
    """Batches counted by one step whose forward is repeated."""

    def counted(norm: Norm) -> str:
        layer = norm(4)
        checkpoint(layer, normal(8, 4).requires_grad_(), use_reentrant=False).sum().backward()
        return f"{layer.num_batches_tracked.item()}"

    return [counted(norm) for norm in BOTH]


def nan_batch() -> list[str]:
    """Outputs of evaluation that are NaN after 100 batches, one of which held a NaN in each channel."""

    def spoiled(norm: Norm) -> str:
        layer = norm(4)
        for step in range(100):
            x = normal(16, 4, seed=step)
            x[0] = torch.nan if step == 50 else x[0]
            layer(x)
        return f"{layer.eval()(normal(16, 4)).isnan().float().mean():.0%}"

    return [spoiled(norm) for norm in BOTH]


def overflow() -> list[str]:
    """running_var after a batch with one value of 1e20 in float32."""

    def variance(norm: Norm) -> str:
        layer, x = norm(1), normal(16, 1)
        layer(x)
        x[0] = 1e20
        layer(x)
        return f"{layer.running_var.item():.2g}"

    return [variance(norm) for norm in BOTH]


def bfloat16() -> list[str]:
    """Running mean and variance of a bfloat16 module after 3,000 batches of mean 5, variance 1, momentum 0.01."""

    def averaged(norm: Norm) -> str:
        layer = norm(256, momentum=0.01).bfloat16()
        for step in range(3000):
            layer(normal(256, 256, seed=step, mean=5.0).bfloat16())
        return f"{layer.running_mean.float().mean():.3f}, {layer.running_var.float().mean():.3f}"

    return [averaged(norm) for norm in BOTH]


def large_mean() -> list[str]:
    """Largest output error where the mean is 10,000 standard deviations, channels_last."""
    x = normal(8, 16, 28, 28, mean=1e4).contiguous(memory_format=torch.channels_last)
    exact = bn.BatchNorm2d(16, dtype=torch.float64)(x.double())
    return [f"{(norm(16)(x) - exact).abs().max():.1e}" for norm in (nn.BatchNorm2d, bn.BatchNorm2d)]


def padding() -> list[str]:
    """Error of the running mean, in standard deviations, where half of the steps of sequences are padding."""
    x, lengths = normal(64, 8, 20, mean=3.0), torch.full((64,), 10)
    x[..., 10:] = 0
    theirs, ours = nn.BatchNorm1d(8, momentum=1.0), bn.BatchNorm1d(8, momentum=1.0)
    theirs(x), ours(x, lengths=lengths)
    truth = x[..., :10].mean((0, 2))
    return [f"{(layer.running_mean - truth).abs().max():.1e}" for layer in (theirs, ours)]


def one_sample() -> list[str]:
    """A last batch of one sample in training."""

    def last(layer: nn.Module) -> str:
        layer(normal(1, 4))
        return "trains on"

    return [
        tried(lambda: last(nn.BatchNorm1d(4))),
        tried(lambda: last(bn.FrozenBatchNorm1d(4))) + " (Frozen)",
    ]


def frozen() -> list[str]:
    """How far a frozen layer's running mean moves when training goes on, in standard deviations."""
    theirs, ours = nn.BatchNorm1d(4).requires_grad_(False).eval(), bn.FrozenBatchNorm1d(4)
    for layer in (theirs, ours):
        layer.train()(normal(64, 4, mean=1.0))
    return [f"{layer.running_mean.abs().max():.2g}" for layer in (theirs, ours)]


def second_pass() -> list[str]:
    """Batches counted by a step of sharpness-aware minimization, two forwards."""
    theirs, ours, x = nn.BatchNorm1d(4), bn.BatchNorm1d(4), normal(8, 4)
    theirs(x), theirs(x), ours(x)
    with bn.no_stats_update(ours):
        ours(x)
    return [f"{layer.num_batches_tracked.item()}" for layer in (theirs, ours)]


def small_batches() -> list[str]:
    """Root mean square difference of training's and evaluation's output, batches of 2."""
    theirs, ours = nn.BatchNorm1d(64), bn.BatchRenorm1d(64, r_max=3.0, d_max=5.0, warmup=1000)
    for step in range(9000):
        ours(normal(2, 64, seed=step))
    for step in range(1000):
        theirs(normal(2, 64, seed=step))
    x = normal(2, 64, seed=-1)
    found = []
    for layer in (theirs, ours):
        evaluated = copy.deepcopy(layer).eval()(x)
        found.append(f"{(layer(x) - evaluated).square().mean().sqrt():.2f}")
    return [found[0], f"{found[1]} (Renorm)"]


def domains() -> list[str]:
    """Error of evaluation's mean, standard deviations, after training on two sources of mean 0 and 3."""
    theirs, ours = nn.BatchNorm1d(4), bn.DomainBatchNorm1d(4, num_domains=2)
    for step in range(200):
        source = step % 2
        x = normal(256, 4, seed=step, mean=3.0 * source)
        theirs(x), ours(x, domain=source)
    return [f"{theirs.running_mean.abs().max():.2f}", f"{ours.running_mean[0].abs().max():.2f} (Domain)"]


def accumulation() -> list[str]:
    """Error of the running mean, standard deviations, with 8 micro-batches of 4 a step."""
    smaller = 1 - (1 - MOMENTUM) ** (1 / PARTS)
    return [f"{noise(MOMENTUM, PARTS):.3f}", f"{noise(smaller, PARTS):.3f} (momentum {smaller:.3f})"]


def cumulative_compiled() -> list[str]:
    """momentum=None under torch.compile(fullgraph=True)."""

    def compiled(norm: Norm) -> str:
        torch._dynamo.reset()
        layer = norm(4, momentum=None)
        run = torch.compile(layer, fullgraph=True, backend="eager")
        for step in range(3):
            run(normal(8, 4, seed=step))
        return f"{layer.num_batches_tracked.item()} batches counted"

    return [tried(lambda norm=norm: compiled(norm)) for norm in BOTH]


def jacobian() -> list[str]:
    """The Jacobian of a training forward by torch.func.jacrev."""
    x = normal(8, 4).double()

    def derived(call: Callable[[torch.Tensor], torch.Tensor]) -> str:
        found = torch.func.jacrev(call)(x)
        expected = torch.autograd.functional.jacobian(bn.BatchNorm1d(4).double(), x)
        return f"off by {(found - expected).abs().max():.0e}"

    def pure(x: torch.Tensor) -> torch.Tensor:
        stats = torch.zeros(4), torch.ones(4)
        return bn.functional.batch_norm_with_stats(x, *stats, training=True)[0]

    ours = tried(lambda: derived(pure))
    return [tried(lambda: derived(nn.BatchNorm1d(4).double())), f"{ours} (`batch_norm_with_stats`)"]


def packed() -> list[str]:
    """A PackedSequence as input."""
    x = torch.nn.utils.rnn.pack_sequence([normal(5, 4), normal(3, 4)])
    return [tried(lambda norm=norm: f"{len(norm(4)(x).data)} values normalized") for norm in BOTH]


def joined(rank: int, folder: str, sizes: tuple[int, int], file: str) -> None:
    """Run both kinds of synchronized layer on this rank's part, and write down what came out."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/{file}", rank=rank, world_size=2)
    x = normal(sum(sizes), 4, mean=2.0)
    expected = nn.BatchNorm1d(4, dtype=torch.float64)(x.double()).split(sizes)[rank]

    def off(layer: nn.Module) -> str:
        # The difference without the largest of nothing.
        difference = (layer(x.split(sizes)[rank]) - expected).abs()
        return f"off by {torch.cat([difference.flatten(), torch.zeros(1)]).max():.0e}"

    found = [tried(lambda norm=norm: off(norm(4))) for norm in (nn.SyncBatchNorm, bn.SyncBatchNorm)]
    if rank == 0:
        Path(folder, f"{file}.txt").write_text("\n".join(found))
    dist.barrier()
    dist.destroy_process_group()


def ranks(sizes: tuple[int, int]) -> list[str]:
    """Output of SyncBatchNorm on two processes without a GPU, against batch norm of the joined batch."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(joined, (folder, sizes, "world"), nprocs=2)
        return Path(folder, "world.txt").read_text().split("\n")


ROWS: list[tuple[str, Callable[..., list[str]], tuple[Any, ...]]] = [
    ("Activation checkpointing: batches counted a step", checkpointing, ()),
    ("One batch with NaN in 100: outputs that are NaN in evaluation", nan_batch, ()),
    ("One value of 1e20: `running_var` afterwards", overflow, ()),
    ("bfloat16 module, 3,000 batches of mean 5, variance 1: running mean, variance", bfloat16, ()),
    ("Mean of 10,000 standard deviations, channels_last: largest output error", large_mean, ()),
    ("Half of each sequence is padding: error of the running mean, in standard deviations", padding, ()),
    ("Last batch of one sample", one_sample, ()),
    ("Frozen, then `model.train()`: how far the running mean moves", frozen, ()),
    ("A second pass over the batch (SAM): batches counted a step", second_pass, ()),
    ("Batches of 2: difference of training and evaluation, in standard deviations", small_batches, ()),
    ("Two sources of data: error of the first one's running mean", domains, ()),
    ("8 micro-batches of 4 a step: error of the running mean", accumulation, ()),
    ("`momentum=None` under `torch.compile(fullgraph=True)`", cumulative_compiled, ()),
    ("`torch.func.jacrev` of a training forward", jacobian, ()),
    ("A `PackedSequence`", packed, ()),
    ("`SyncBatchNorm` on two CPU processes, 5 and 3 samples", ranks, ((5, 3),)),
    ("`SyncBatchNorm` on two CPU processes, 8 and 0 samples", ranks, ((8, 0),)),
]


def main() -> None:
    """Print the Markdown table."""
    warnings.simplefilter("ignore")
    print(f"| torch {torch.__version__.split('+')[0]} on a CPU | torch.nn | batchnorm |\n|---|---|---|")
    for title, measure, arguments in ROWS:
        theirs, ours = measure(*arguments)
        print(f"| {title} | {theirs} | {ours} |", flush=True)


if __name__ == "__main__":
    main()
