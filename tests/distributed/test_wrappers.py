"""Layers whose statistics are each rank's own, in DistributedDataParallel and FSDP2."""

import functools

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import batchnorm as bn
from tests.contract.oracle import oracle

RANKS = 4
X = torch.randn(RANKS, 6, 3, 5, generator=torch.Generator().manual_seed(0)) + 2


class Net(nn.Module):
    def __init__(self, norm, checkpoints=None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.conv, self.last = norm(3), nn.Conv1d(3, 3, 3, padding=1, bias=False), norm(3)
        self.unused, self.checkpoints = norm(3), checkpoints

    def block(self, x):
        return self.conv(self.norm(x))

    def forward(self, x):
        x = self.block(x) if self.checkpoints is None else self.checkpoints(self.block, x)
        return self.last(x).relu()


def numbers(model):
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    return grads, {name: buffer.clone() for name, buffer in model.named_buffers()}


def trained(kind, forwards, broadcasts=True, checkpoints=None):
    """Two steps, each of several forwards before one backward; some layers go unused."""
    model = Net(kind, checkpoints)
    wrapped = DistributedDataParallel(model, find_unused_parameters=True, broadcast_buffers=broadcasts)
    x = X[dist.get_rank()]
    for step in range(2):
        loss = sum(wrapped(x + step + number).square().mean() for number in range(forwards))
        loss.backward()
    return numbers(model)


def trained_alone(rank):
    """What rank 0, or without broadcasts each rank, counts; and its part of the gradients."""
    model, x = Net(nn.BatchNorm1d), X[rank]
    for step in range(2):
        model(x + step).square().mean().backward()
    return numbers(model)


NOT_REENTRANT = functools.partial(checkpoint, use_reentrant=False)


@pytest.mark.parametrize("broadcasts", [True, False])
@pytest.mark.parametrize("checkpoints", [None, NOT_REENTRANT], ids=["plain", "checkpointed"])
def test_ddp_averages_gradients_and_spreads_the_buffers_of_rank_0(world, broadcasts, checkpoints) -> None:
    found = world.run(trained, bn.BatchNorm1d, 1, broadcasts, checkpoints)
    alone = [trained_alone(rank) for rank in range(RANKS)]
    grads = {name: [part[0][name] for part in alone] for name in alone[0][0]}
    for rank, (mine, buffers) in enumerate(found):
        for name, parts in grads.items():
            if parts[0] is None:
                assert mine[name] is None or not mine[name].any()
                continue
            torch.testing.assert_close(mine[name], sum(parts) / RANKS, rtol=1e-4, atol=1e-5)
        # The broadcast comes before a forward: it moves on with the rank's own batch.
        expected = alone[rank][1]
        assert buffers["norm.num_batches_tracked"] == 2
        if not broadcasts or rank == 0:
            for name, value in expected.items():
                torch.testing.assert_close(buffers[name], value, rtol=1e-4, atol=1e-5)
    if broadcasts:
        first = Net(nn.BatchNorm1d)
        first(X[0])
        first.norm(X[3] + 1)
        torch.testing.assert_close(found[3][1]["norm.running_mean"], first.norm.running_mean)


def test_several_forwards_before_one_backward_with_broadcast_buffers(world) -> None:
    found = world.run(trained, bn.BatchNorm1d, 3)
    alone = []
    for rank in range(RANKS):
        model = Net(nn.BatchNorm1d)
        for step in range(2):
            sum(model(X[rank] + step + number).square().mean() for number in range(3)).backward()
        alone.append(numbers(model)[0])
    for mine, buffers in found:
        for name in ("norm.weight", "conv.weight", "last.weight", "last.bias"):
            expected = sum(part[name] for part in alone) / RANKS
            torch.testing.assert_close(mine[name], expected, rtol=1e-4, atol=1e-5)
        assert buffers["norm.num_batches_tracked"] == 6


def sharded(size, dtype):
    mesh = init_device_mesh("cpu", (RANKS // size, size), mesh_dim_names=("apart", "together"))["together"]
    model = nn.Sequential(bn.BatchNorm1d(3), nn.Conv1d(3, 3, 3, bias=False), bn.BatchNorm1d(3))
    seen = []
    model[2].register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    for part in (model[1], model[2], model):
        fully_shard(part, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=dtype))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(2):
        optimizer.zero_grad()
        model(X[dist.get_rank()] + step).float().square().mean().backward()
        optimizer.step()
    return seen, {name: buffer.clone() for name, buffer in model.named_buffers()}, model[0].weight.dtype


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1, 2])
def test_fsdp_keeps_statistics_float32_and_those_of_the_rank(world, size, dtype) -> None:
    for rank, (seen, buffers, kept) in enumerate(world.run(sharded, size, dtype)):
        assert kept == torch.float32
        inputs = {
            "0": [X[rank].to(dtype or torch.float32), (X[rank] + 1).to(dtype or torch.float32)],
            "2": seen,
        }
        for name, batches in inputs.items():
            assert batches[0].dtype == (dtype or torch.float32)
            mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
            for batch in batches:
                numbers = oracle(batch)
                mean, var = 0.9 * mean + 0.1 * numbers.mean, 0.9 * var + 0.1 * numbers.unbiased_var
            for key, expected in (("running_mean", mean), ("running_var", var)):
                assert buffers[f"{name}.{key}"].dtype == torch.float32
                torch.testing.assert_close(buffers[f"{name}.{key}"].double(), expected, rtol=1e-5, atol=1e-6)
