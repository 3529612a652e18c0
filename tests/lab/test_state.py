import io
import random

import numpy as np
import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.lab.state import capture, generators, restore, set_generators


class Counting(nn.Module):
    """State of every kind, each of which the output depends on."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm, self.last = nn.Linear(4, 5), bn.BatchRenorm1d(5, warmup=3), nn.Linear(5, 2)
        self.register_buffer("shift", torch.zeros(5), persistent=False)
        self.steps = 0
        self.trace = torch.zeros(5)

    def forward(self, x):
        x = self.norm(self.linear(x)) + self.shift + 0.1 * self.trace
        if self.training:
            self.steps += 1
            self.shift += 0.1
            self.trace = 0.5 * self.trace + x.detach().mean(0)
        return self.last(x) * (1 + 0.01 * self.steps) + torch.randn(()) * random.random() * np.random.rand()


def made(optimizer):
    module = Counting()
    return module, optimizer(module.parameters())


def steps(module, optimizer, count):
    data = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = module(torch.randn(6, 4, generator=data)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.01),
        lambda p: torch.optim.AdamW(p, lr=0.01),
    ],
)
def test_training_goes_on_to_the_same_bits(optimizer):
    module, its = made(optimizer)
    steps(module, its, 5)
    state = through_a_file(capture(module, its) | {"random": generators("cpu")})
    expected = steps(module, its, 4)
    torch.manual_seed(99), random.seed(99), np.random.seed(99)
    other, others = made(optimizer)
    restore(state, other, others)
    set_generators(state["random"])
    assert steps(other, others, 4) == expected
    ours, theirs = module.state_dict(), other.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (other.steps, torch.equal(other.shift, module.shift)) == (9, True)


def test_a_network_of_another_kind_is_refused():
    module, its = made(lambda p: torch.optim.SGD(p, lr=0.1))
    state = capture(module, its)
    for change in (
        lambda other: setattr(other, "linear", nn.Linear(4, 6)),
        lambda other: setattr(other, "more", nn.Identity()),
        lambda other: other.register_buffer("another", torch.zeros(1), persistent=False),
    ):
        other, others = made(lambda p: torch.optim.SGD(p, lr=0.1))
        change(other)
        with pytest.raises((RuntimeError, ValueError)):
            restore(state, other, others)
