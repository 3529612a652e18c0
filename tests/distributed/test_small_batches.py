"""Ghost batch norm and batch renormalization under DistributedDataParallel, checkpointed and not: the same training."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import batchnorm as bn

LAYERS = {
    "renorm": lambda: bn.BatchRenorm1d(3, momentum=0.4, warmup=1, r_max=2, d_max=1),
    "ghost": lambda: bn.GhostBatchNorm1d(3, virtual_batch_size=4),
}


class Network(nn.Module):
    def __init__(self, kind, checkpointed):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(3, 3), LAYERS[kind](), nn.Tanh())
        self.checkpointed = checkpointed

    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=False) if self.checkpointed else self.body(x)


def trained(kind, checkpointed):
    model = DistributedDataParallel(Network(kind, checkpointed))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    generator = torch.Generator().manual_seed(dist.get_rank())
    for _ in range(4):
        # Two forwards before the backward: the second broadcasts rank 0's buffers, which the first has moved.
        batches = [torch.randn(8, 3, generator=generator) + 1 for _ in range(2)]
        with model.no_sync():
            first = model(batches[0])
        loss = (first.pow(3) + model(batches[1]).pow(3)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: value.clone() for name, value in model.module.state_dict().items()}


@pytest.mark.parametrize("kind", LAYERS)
def test_checkpointing_changes_nothing(world, kind) -> None:
    plain, repeated = world.run(trained, kind, False), world.run(trained, kind, True)
    for mine, theirs in zip(repeated, plain, strict=True):
        assert mine["body.1.num_batches_tracked"] == 8
        for name, value in theirs.items():
            assert torch.equal(mine[name], value), name
    for rank in plain[1:]:
        for name in ("body.0.weight", "body.1.weight"):
            assert torch.equal(rank[name], plain[0][name])
