"""NaN, infinity and overflow: they pass to the output as in torch and never enter the running statistics."""

import pytest
import torch
from torch.nn import functional as F

import batchnorm as bn
from tests.contract.oracle import oracle

pytestmark = pytest.mark.usefixtures("on")


def batch(bad: float) -> torch.Tensor:
    x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x[2, 1, 0, 3] = bad
    return x


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("training", [True, False])
def test_outputs_are_as_in_torch(bad: float, training: bool) -> None:
    x = batch(bad)
    stats = torch.zeros(3), torch.ones(3)
    actual = bn.functional.batch_norm(x, stats[0].clone(), stats[1].clone(), training=training)
    expected = F.batch_norm(x, stats[0].clone(), stats[1].clone(), training=training)
    torch.testing.assert_close(actual, expected, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [1e20, -3e38])
def test_a_variance_beyond_float32_still_normalizes(bad: float) -> None:
    # torch's own operator gives zeros here: its variance is infinite.
    x = batch(bad)
    actual = bn.functional.batch_norm(x, None, None, training=True)
    expected = oracle(x)
    assert ((actual.double() - expected.output).abs() <= 1e-6 * expected.magnitude.clamp(min=1)).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e21])
def test_only_the_bad_channel_keeps_its_running_statistics(bad: float) -> None:
    layer = bn.BatchNorm2d(3)
    layer(batch(bad))
    clean = bn.BatchNorm2d(3)
    clean(batch(0.0))
    assert layer.running_mean[1] == 0
    assert layer.running_var[1] == 1
    for channel in (0, 2):
        assert layer.running_mean[channel] == clean.running_mean[channel]
        assert layer.running_var[channel] == clean.running_var[channel]
    assert layer.num_batches_tracked == 1
    assert torch.isfinite(layer.running_var).all()


def test_the_decision_is_made_in_the_buffers_dtype() -> None:
    x = batch(1e21)  # a variance near 1e40: infinite in float32, finite in float64
    mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    bn.functional.batch_norm(x, mean, var, training=True)
    assert torch.isfinite(var).all()
    assert var[1] > 1e38


def test_narrow_buffers_set_by_somebody_else_are_written_back() -> None:
    layer = bn.BatchNorm1d(2)
    layer.running_mean, layer.running_var = layer.running_mean.bfloat16(), layer.running_var.bfloat16()
    layer(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert layer.running_mean.dtype == torch.bfloat16
    assert torch.equal(layer.running_mean, torch.tensor([0.2, 0.3]).bfloat16())
    # 0.9 * 0.2 + 0.1 * 2 in float64, rounded once; arithmetic in bfloat16 ends one step away.
    stored = layer.running_mean.double()
    layer(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    wanted = 0.9 * stored + 0.1 * torch.tensor([2.0, 3.0], dtype=torch.float64)
    assert torch.equal(layer.running_mean, wanted.bfloat16())


@pytest.mark.parametrize("momentum", [0.1, None])
def test_an_empty_batch_ticks_except_in_a_cumulative_average(momentum: float | None) -> None:
    layer = bn.BatchNorm2d(3, momentum=momentum)
    out = layer(torch.zeros(0, 3, 2, 2))
    assert out.shape == (0, 3, 2, 2)
    assert layer.num_batches_tracked == (1 if momentum else 0)
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert torch.equal(layer.running_var, torch.ones(3))


def test_an_empty_batch_has_gradients() -> None:
    x = torch.zeros(0, 3, 2, 2, requires_grad=True)
    layer = bn.BatchNorm2d(3)
    layer(x).sum().backward()
    assert x.grad.shape == x.shape
    assert torch.equal(layer.weight.grad, torch.zeros(3))


@pytest.mark.parametrize("act", ["relu", "relu6", "leaky_relu", "hardswish", "elu"])
def test_nan_in_the_gradient_is_where_torch_has_it(act: str) -> None:
    x = torch.tensor([[1.0, float("nan")], [2.0, 0.0]], requires_grad=True)
    y = x.detach().clone().requires_grad_()
    running = torch.zeros(2), torch.ones(2)
    bn.functional.batch_norm(x, *running, act=act).sum().backward()
    getattr(F, act)(F.batch_norm(y, *running)).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, equal_nan=True)
