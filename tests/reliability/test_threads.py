"""Several models that train at once in Python threads give the bits of each alone, whatever kind of layer they hold."""

import threading

import pytest
import torch
from torch import nn

import batchnorm as bn

STEPS = 12


class Ours(nn.Module):
    """Every kind of layer, with an activation, a residual, a mask and a checkpoint between."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv1d(6, 6, 3, padding=1)
        self.first = bn.BatchNorm1d(6)
        self.ghost = bn.GhostBatchNorm1d(6, virtual_batch_size=4)
        self.domain = bn.DomainBatchNorm1d(6, num_domains=2)
        self.rows = bn.ChannelsLastBatchNorm(6)
        self.head = nn.Linear(6, 3)
        self.seed = seed

    def forward(self, x):
        x = self.first(self.conv(x), x, act="silu")
        x = torch.utils.checkpoint.checkpoint(self.ghost, x, use_reentrant=False)
        with bn.domain(self.seed % 2):
            x = self.domain(x, mask=x[:, 0].detach() > -1.5, act="relu")
        return self.head(self.rows(x.mT).mean(1))


def train(seed: int, backend: str) -> list[torch.Tensor]:
    torch.set_num_threads(1)
    with bn.backend(backend):
        model, generator = MODELS[seed, backend], torch.Generator().manual_seed(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        for step in range(STEPS):
            # Lengths change, so that no two steps find the memory that they used before.
            x = torch.randn(9 + step % 3, 6, 20 + 7 * (step % 4), generator=generator)
            optimizer.zero_grad()
            if step % 5 == 4:
                with bn.no_stats_update(model):
                    model(x)
            model(x).square().mean().backward()
            optimizer.step()
    return [value.clone() for value in model.state_dict().values()]


MODELS: dict = {}


@pytest.mark.parametrize("backends", [("auto",), ("auto", "reference")], ids=str)
def test_threads_give_the_bits_of_training_alone(backends) -> None:
    jobs = [(seed, backends[seed % len(backends)]) for seed in range(6)]

    def renew() -> None:
        # Weights are drawn from one generator for all threads: before they start.
        MODELS.update({job: Ours(job[0]) for job in jobs})

    renew()
    alone = {job: train(*job) for job in jobs}
    renew()
    together: dict = {}
    gate = threading.Barrier(len(jobs))

    def work(job) -> None:
        gate.wait()
        together[job] = train(*job)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job in jobs:
        for mine, expected in zip(together[job], alone[job], strict=True):
            assert torch.isfinite(expected).all()
            assert torch.equal(mine, expected)
