"""The numerics contract where torch loses digits: large means, extreme variances, both layouts."""

import pytest
import torch

import batchnorm as bn
from tests.contract.oracle import oracle

pytestmark = pytest.mark.usefixtures("on")

SHAPE = (8, 16, 28, 28)


def shifted(ratio: float, layout: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    x = (torch.randn(SHAPE, generator=generator, dtype=torch.float64) + ratio).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if layout == "NHWC" else x


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 1e2, 1e4, 1e6, -1e6])
def test_training_output_and_gradient_in_float32(ratio: float, layout: str) -> None:
    x = shifted(ratio, layout).requires_grad_()
    truth = x.detach().double().requires_grad_()
    expected = oracle(truth)
    actual = bn.functional.batch_norm(x, None, None, training=True)
    assert ((actual.double() - expected.output).abs() <= 1e-6 * expected.magnitude.clamp(min=1)).all()
    grad = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4))
    (mine,) = torch.autograd.grad(actual, x, grad)
    (wanted,) = torch.autograd.grad(expected.output, truth, grad.double())
    largest = grad.double().abs() / (expected.biased_var + 1e-5).sqrt().view(1, -1, 1, 1)
    assert ((mine.double() - wanted).abs() <= 2e-6 * largest.amax()).all()


@pytest.mark.parametrize(("dtype", "ratio"), [(torch.float16, 2.0**9), (torch.bfloat16, 2.0**6)])
def test_half_precision_is_within_one_ulp_at_the_means_it_resolves(dtype: torch.dtype, ratio: float) -> None:
    x = shifted(ratio, "NCHW", dtype)
    expected = oracle(x).output.to(dtype)
    actual = bn.functional.batch_norm(x, None, None, training=True)
    steps = (
        torch.nextafter(expected, torch.full_like(expected, torch.inf)),
        torch.nextafter(expected, torch.full_like(expected, -torch.inf)),
    )
    assert ((actual == expected) | (actual == steps[0]) | (actual == steps[1])).all()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("ratio", [1.0, 1e4, 1e6])
def test_evaluation_against_float64_on_the_stored_buffers(ratio: float, layout: str) -> None:
    x = shifted(ratio, layout)
    mean, var = torch.full((16,), ratio) + torch.rand(16), 0.5 + torch.rand(16)
    weight, bias = 1 + torch.rand(16), torch.randn(16)
    expected = oracle(x, weight=weight, bias=bias, running=(mean, var))
    actual = bn.functional.batch_norm(x, mean, var, weight, bias)
    assert ((actual.double() - expected.output).abs() <= 1e-6 * expected.magnitude.clamp(min=1)).all()


@pytest.mark.parametrize("scale", [1e15, 1e-15])
def test_extreme_variances(scale: float) -> None:
    x = shifted(0.0, "NCHW").double().mul(scale).float()
    running_var = torch.ones(16)
    actual = bn.functional.batch_norm(x, torch.zeros(16), running_var, training=True, momentum=1.0, eps=1e-38)
    expected = oracle(x, eps=1e-38)
    assert ((actual.double() - expected.output).abs() <= 1e-6 * expected.magnitude.clamp(min=1)).all()
    torch.testing.assert_close(running_var.double(), expected.unbiased_var, rtol=1e-6, atol=0)


def test_running_statistics_of_a_large_mean_where_torch_is_off() -> None:
    x = (torch.rand(16, 4, 56, 56, generator=torch.Generator().manual_seed(0)) + 10).contiguous(
        memory_format=torch.channels_last
    )
    mean, var = torch.zeros(4), torch.zeros(4)
    bn.functional.batch_norm(x, mean, var, training=True, momentum=1.0)
    expected = oracle(x)
    torch.testing.assert_close(mean.double(), expected.mean, rtol=1e-7, atol=0)
    torch.testing.assert_close(var.double(), expected.unbiased_var, rtol=1e-7, atol=0)


def test_same_input_same_bits() -> None:
    x = shifted(1e3, "NHWC")
    first, second = (bn.functional.batch_norm(x, None, None, training=True, act="silu") for _ in range(2))
    assert torch.equal(first, second)
