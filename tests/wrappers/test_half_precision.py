"""Autocast, GradScaler and bfloat16 modules: statistics stay float32, and those of the batch."""

import copy

import pytest
import torch
from torch import nn

import batchnorm as bn
from tests.contract.oracle import oracle

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 2
HALVES = [torch.float16, torch.bfloat16]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), bn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3), bn.BatchNorm2d(2)
    )


@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_in_training(dtype) -> None:
    model, seen = network(), []
    model[1].register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    x = X.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        y = model(x)
    assert y.dtype == seen[0].dtype == dtype  # what the convolution gives is what the norm gives back
    y.float().square().mean().backward()
    expected = oracle(seen[0])
    layer = model[1]
    assert layer.running_mean.dtype == layer.running_var.dtype == layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(layer.running_mean.double(), 0.1 * expected.mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        layer.running_var.double(), 0.9 + 0.1 * expected.unbiased_var, rtol=1e-6, atol=0
    )
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_gradients_are_those_of_the_half_values(dtype) -> None:
    values = X.to(dtype)
    layer, x = bn.BatchNorm2d(3), values.clone().requires_grad_()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x, act="relu")
    wide = values.double().requires_grad_()
    weight = layer.weight.detach().double().requires_grad_()
    expected = oracle(wide, weight=weight, bias=layer.bias.double().detach(), act="relu").output
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    y.backward(grad)
    expected.backward(grad.double())
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(x.grad.double(), wide.grad, rtol=step, atol=step)
    torch.testing.assert_close(layer.weight.grad.double(), weight.grad, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_in_evaluation(dtype) -> None:
    layer = bn.BatchNorm2d(3)
    layer(X)
    layer.eval()
    values = X.to(dtype)
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        found = layer(values)
    wanted = oracle(values, running=(layer.running_mean, layer.running_var)).output.to(dtype)
    assert found.dtype == dtype
    torch.testing.assert_close(found, wanted, rtol=torch.finfo(dtype).eps, atol=0)


def test_a_step_that_grad_scaler_skips_leaves_good_statistics() -> None:
    model = network()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights, skipped, stepped = copy.deepcopy(list(model.parameters())), 0, 0
    for step in range(40):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = model(X + 0.01 * step).float().square().mean()
        optimizer.zero_grad()
        scale = scaler.get_scale()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() < scale:
            skipped += 1
            if not stepped:
                for mine, before in zip(model.parameters(), weights, strict=True):
                    assert torch.equal(mine, before)
        else:
            stepped += 1
        assert all(torch.isfinite(buffer).all() for buffer in model.buffers())
    assert skipped
    assert stepped
    # A skipped step was a forward like any other: its batch counts, as in torch.
    assert model[1].num_batches_tracked == 40


@pytest.mark.parametrize("dtype", HALVES)
def test_an_input_that_overflowed_leaves_the_statistics_alone(dtype) -> None:
    layer = bn.BatchNorm2d(3)
    layer(X.to(dtype))
    before = copy.deepcopy(layer.state_dict())
    bad = X.to(dtype)
    bad[0, 1, 0, 0] = torch.inf
    with torch.autocast("cpu", dtype=dtype):
        layer(bad)
    assert layer.running_mean[1] == before["running_mean"][1]
    assert layer.running_var[1] == before["running_var"][1]
    assert layer.running_mean[0] != before["running_mean"][0]


def test_statistics_of_a_bfloat16_module_converge() -> None:
    layer = bn.BatchNorm1d(64, momentum=0.01).bfloat16()
    generator = torch.Generator().manual_seed(0)
    mean = var = 0.0
    steps = 1500
    for step in range(steps):
        x = (torch.randn(256, 64, generator=generator) + 5).bfloat16()
        layer(x)
        share = 0.01 * 0.99 ** (steps - 1 - step)
        mean, var = mean + share * x.double().mean(0), var + share * x.double().var(0)
    # The running average itself, in float64, of the same batches: its start is forgotten to 3e-7.
    start = 0.99**steps
    torch.testing.assert_close(layer.running_mean.double(), mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(layer.running_var.double(), var + start, rtol=1e-5, atol=0)
    assert abs(layer.running_mean.mean().item() / 5 - 1) < 1e-3
    assert abs(layer.running_var.mean().item() - 1) < 2e-3  # bfloat16 values near 5 have steps of 1/32
