"""Gradient accumulation: what micro-batches can have of the whole batch, and what they cannot."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import batchnorm as bn
from tests.contract.oracle import oracle

MICRO, PARTS, MOMENTUM = 4, 8, 0.1
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def batch(seed):
    return torch.randn(MICRO * PARTS, 3, 5, generator=torch.Generator().manual_seed(seed)) + 2


def accumulated(model, x):
    """The gradients after one step's micro-batches; sample n is in part n mod PARTS."""
    for part in range(PARTS):
        (model(x[part::PARTS]).square().mean() / PARTS).backward()
    return [parameter.grad for parameter in model.parameters()]


def network(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 6, 3, bias=False), norm, nn.SiLU(), nn.Conv1d(6, 2, 3))
    nn.init.uniform_(model[1].weight, 0.5, 1.5)
    return model


def test_accumulated_gradients_are_those_of_ghost_batch_norm() -> None:
    micro = network(bn.BatchNorm1d(6))
    ghost = network(bn.GhostBatchNorm1d(6, virtual_batch_size=MICRO))
    whole = network(bn.BatchNorm1d(6))
    ghost.load_state_dict(micro.state_dict())
    whole.load_state_dict(micro.state_dict())
    x = batch(0)
    found = accumulated(micro, x)
    for model in (ghost, whole):
        model(x).square().mean().backward()
    for mine, expected in zip(found, ghost.parameters(), strict=True):
        torch.testing.assert_close(mine, expected.grad, **CLOSE)
    # And not those of the whole batch: no choice of momentum makes them so.
    wide = torch.cat([g.flatten() for g in found])
    other = torch.cat([p.grad.flatten() for p in whole.parameters()])
    assert (wide - other).norm() > 0.02 * other.norm()


def test_a_smaller_momentum_gives_the_statistics_of_whole_batches() -> None:
    micro = bn.BatchNorm1d(3, momentum=1 - (1 - MOMENTUM) ** (1 / PARTS))
    whole, usual = bn.BatchNorm1d(3, momentum=MOMENTUM), bn.BatchNorm1d(3, momentum=MOMENTUM)
    errors = {layer: [] for layer in (micro, whole, usual)}
    for step in range(150):
        x = batch(step)
        for part in range(PARTS):
            micro(x[part::PARTS])
            usual(x[part::PARTS])
        whole(x)
        if step >= 50:
            for layer, found in errors.items():
                found.append(torch.stack([layer.running_mean - 2, layer.running_var - 1]))
    noise = {layer: torch.stack(found).square().mean().sqrt() for layer, found in errors.items()}
    assert noise[micro] < 1.1 * noise[whole]
    assert noise[usual] > 2 * noise[micro]


def test_an_average_over_an_accumulation_window_is_exact() -> None:
    layer, x = bn.BatchNorm1d(3, momentum=None), batch(0)
    parts = [oracle(x[part::PARTS]) for part in range(PARTS)]
    for part in range(PARTS):
        layer(x[part::PARTS])
    expected = torch.stack([part.mean for part in parts]).mean(0)
    torch.testing.assert_close(layer.running_mean.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(layer.running_mean.double(), oracle(x).mean, rtol=1e-6, atol=0)
    within = torch.stack([part.unbiased_var for part in parts]).mean(0)
    torch.testing.assert_close(layer.running_var.double(), within, rtol=1e-6, atol=0)


def test_uncounted_training_and_one_recalibrating_pass() -> None:
    model = network(bn.BatchNorm1d(6))
    with bn.no_stats_update(model):
        accumulated(model, batch(0))
    assert model[1].num_batches_tracked == 0
    hidden = model[0](torch.cat([batch(seed) for seed in range(20)])).detach()
    update_bn([batch(seed) for seed in range(20)], model)
    expected = oracle(hidden)
    torch.testing.assert_close(model[1].running_mean.double(), expected.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model[1].running_var.double(), expected.unbiased_var, rtol=0.02, atol=0)
    assert model[1].momentum == 0.1


def test_renorm_trains_on_micro_batches_as_on_the_whole_batch() -> None:
    # Where the running statistics are good, each sample is normalized by them: in whose company does not matter.
    settled = bn.BatchRenorm1d(3, r_max=1e6, d_max=1e6, warmup=0, momentum=None)
    for seed in range(400):
        settled(batch(seed))
    x = batch(1000)
    outputs = {}
    for name, layer in (("renorm", settled), ("plain", bn.BatchNorm1d(3))):
        twin = copy.deepcopy(layer)
        whole = layer(x)
        parts = torch.empty_like(whole)
        for part in range(PARTS):
            parts[part::PARTS] = twin(x[part::PARTS]).detach()
        outputs[name] = (parts - whole).square().mean().sqrt()
    assert outputs["renorm"] < 0.01
    assert outputs["plain"] > 0.15


@pytest.mark.parametrize("parts", [1, 3])
def test_the_loss_is_divided_not_the_statistics(parts) -> None:
    # A part that is smaller, the last one, weighs by its samples in the loss; the layer needs no word of it.
    layer, x = bn.BatchNorm1d(3), batch(0)
    sizes = [MICRO * PARTS - 2 * (parts - 1), *[2] * (parts - 1)]
    for part in x.split(sizes):
        (layer(part).square().sum() / x.numel()).backward()
    assert layer.num_batches_tracked == parts
    assert torch.isfinite(layer.weight.grad).all()
