"""Where the kernels' float32 ends: very large gradients, no variance at all, denormals."""

import pytest
import torch
from torch import Tensor

import batchnorm as bn

pytestmark = pytest.mark.usefixtures("library")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradients(x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    leaves = [leaf.to(x.dtype).requires_grad_() for leaf in (x.clone(), torch.ones(3), torch.zeros(3))]
    output = bn.functional.batch_norm(leaves[0], None, None, *leaves[1:], training=True)
    return torch.autograd.grad(output, leaves, grad.to(x.dtype))


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_gradients_up_to_1e36_are_added_up(form) -> None:
    x = randn(16, 3, 2, 2).contiguous(memory_format=form)
    grad = (1e36 * (0.5 + randn(16, 3, 2, 2, seed=1).sigmoid() / 2)).contiguous(memory_format=form)
    for found, expected in zip(gradients(x, grad), gradients(x.double(), grad), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=2e-7, atol=1e36 * 2e-6)


@pytest.mark.parametrize("shape", [(64, 3), (64, 3, 8, 8)])
def test_without_any_variance_gradients_are_not_finite_as_torchs_are_not(shape) -> None:
    def step(function) -> tuple[Tensor, ...]:
        leaves = [
            randn(*shape).requires_grad_(),
            torch.ones(3, requires_grad=True),
            torch.zeros(3, requires_grad=True),
        ]
        output = function(leaves[0], torch.zeros(3), torch.zeros(3), *leaves[1:], eps=0.0)
        return torch.autograd.grad(output, leaves, torch.ones(shape))

    found, expected = step(bn.functional.batch_norm), step(torch.nn.functional.batch_norm)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[2], expected[2])
    assert not found[1].isfinite().any()
    assert not expected[1].isfinite().any()


def test_denormals_have_gradients_to_the_digits_that_they_have() -> None:
    x, grad = randn(64, 3) * 1e-40, randn(64, 3, seed=1)
    for found, expected in zip(gradients(x, grad), gradients(x.double(), grad), strict=True):
        torch.testing.assert_close(
            found.double(), expected, rtol=1e-4, atol=1e-6 * expected.abs().max().item()
        )
