"""Activation checkpointing of every kind: each batch counts once, and the gradients are the plain ones to the bit.

Selective checkpointing watches every operator, so that plain torch ones do the work: there they are the plain ones to
rounding.
"""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
)

import batchnorm as bn

X = torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(0)) + 1
MASK = torch.rand(8, 6, 6, generator=torch.Generator().manual_seed(1)) < 0.7
LAYERS = {
    "BatchNorm": lambda: bn.BatchNorm2d(4),
    "cumulative": lambda: bn.BatchNorm2d(4, momentum=None),
    "Sync": lambda: bn.SyncBatchNorm(4),
    "Ghost": lambda: bn.GhostBatchNorm2d(4, virtual_batch_size=3),
    "Domain": lambda: bn.DomainBatchNorm2d(4, num_domains=1),
    "Frozen": lambda: bn.FrozenBatchNorm2d(4),
    "Renorm": lambda: bn.BatchRenorm2d(4, warmup=1, momentum=0.1),
}


class Block(nn.Module):
    def __init__(self, layer, masked: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.mask = nn.Conv2d(4, 4, 1, bias=False), layer, MASK if masked else None

    def forward(self, x):
        return self.norm(self.conv(x), x, act="silu", mask=self.mask)


def policy(ctx, op, *args, **kwargs):
    # Not "save all": the convolution is kept, the rest repeated.
    kept = op is torch.ops.aten.convolution.default
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def nested(model, x):
    def inner(x):
        return checkpoint(model[1], checkpoint(model[0], x, use_reentrant=False), use_reentrant=False)

    return checkpoint(inner, x, use_reentrant=False)


def selective(model, x):
    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    return checkpoint(model, x, use_reentrant=False, context_fn=contexts)


HOW = {
    "reentrant": lambda model, x: checkpoint(model, x, use_reentrant=True),
    "not reentrant": lambda model, x: checkpoint(model, x, use_reentrant=False),
    "selective": selective,
    "nested": nested,
    "sequential": lambda model, x: checkpoint_sequential(model, 2, x, use_reentrant=False),
}


def assert_same(how, found, expected):
    if how == "selective":
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    else:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def train(model, run, steps=2):
    grads = []
    for step in range(steps):
        x = (X + step).requires_grad_()
        run(model, x).square().sum().backward()
        grads.append(x.grad)
    return [*grads, *(parameter.grad for parameter in model.parameters())]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", LAYERS)
def test_each_batch_counts_once_and_gradients_are_the_plain_ones(name, how, masked, backend) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(*(Block(LAYERS[name](), masked) for _ in range(2)))
    model = copy.deepcopy(plain)
    with bn.backend(backend):
        expected = train(plain, lambda model, x: model(x))
        found = train(model, HOW[how])
    assert_same(how, found, expected)
    assert_same(how, list(model.state_dict().values()), list(plain.state_dict().values()))
    assert plain[1].norm.num_batches_tracked.sum() == (0 if name == "Frozen" else 2)


@pytest.mark.parametrize("how", HOW)
def test_a_pass_that_does_not_count_does_not_count_when_repeated(how) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Block(bn.BatchNorm2d(4), False), Block(bn.BatchNorm2d(4), True))
    plain = copy.deepcopy(model)
    before = copy.deepcopy(model.state_dict())
    with bn.no_stats_update(model):
        found = train(model, HOW[how])
    with bn.no_stats_update(plain):
        expected = train(plain, lambda model, x: model(x))
    assert_same(how, found, expected)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("how", HOW)
def test_the_backward_of_an_uncounted_pass_outside_of_its_block(how) -> None:
    # The forward is repeated where tracking is on again.
    torch.manual_seed(0)
    model = nn.Sequential(Block(bn.BatchNorm2d(4), False), Block(bn.BatchNorm2d(4), True))
    with bn.no_stats_update(model):
        output = HOW[how](model, X.clone().requires_grad_())
    output.square().sum().backward()
    assert model[0].norm.num_batches_tracked == model[1].norm.num_batches_tracked == 0
