"""Train one small network in several processes, with batch norm of each rank alone and with SyncBatchNorm.

Start: python -m torch.distributed.run --nproc_per_node=2 examples/ddp_sync.py

Each rank sees other classes than the others, as it happens with data that is stored sorted. Batch norm of a rank alone
then learns to work with the statistics of some classes, and is evaluated with those of rank 0.
"""

import gc

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import batchnorm as bn

CLASSES, FEATURES, STEPS = 10, 64, 150


def samples(generator: torch.Generator, of: torch.Tensor) -> torch.Tensor:
    """One noisy sample of each of these classes; the classes are the same on every rank."""
    centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
    return centres[of] + 2.5 * torch.randn(len(of), FEATURES, generator=generator)


def network(sync: bool) -> nn.Module:
    torch.manual_seed(0)
    norm = bn.SyncBatchNorm if sync else bn.BatchNorm1d
    return nn.Sequential(nn.Linear(FEATURES, 32), norm(32), nn.ReLU(), nn.Linear(32, CLASSES))


def train(sync: bool) -> tuple[float, float]:
    """Return the accuracy over all classes, and how far apart the ranks' running means are."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = DistributedDataParallel(network(sync))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mine = torch.arange(CLASSES)[rank::ranks]
    generator = torch.Generator().manual_seed(rank)
    for _ in range(STEPS):
        labels = mine[torch.randint(len(mine), (16,), generator=generator)]
        loss = F.cross_entropy(model(samples(generator, labels)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    mean = model.module[1].running_mean
    everyone = [torch.empty_like(mean) for _ in range(ranks)]
    dist.all_gather(everyone, mean)
    apart = max((other - everyone[0]).abs().max().item() for other in everyone)

    labels = torch.arange(CLASSES).repeat(100)
    guessed = model.module.eval()(samples(torch.Generator().manual_seed(99), labels)).argmax(1)
    return (guessed == labels).float().mean().item(), apart


def main() -> None:
    dist.init_process_group("gloo")
    for sync in (False, True):
        accuracy, apart = train(sync)
        if dist.get_rank() == 0:
            name = "SyncBatchNorm" if sync else "BatchNorm1d, each rank alone"
            print(
                f"{name}: accuracy {accuracy:.1%}, running means of the ranks differ by {apart:.3f}",
                flush=True,
            )
    # What still refers to the group would keep its threads alive into the interpreter's end, where they abort.
    gc.collect()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
