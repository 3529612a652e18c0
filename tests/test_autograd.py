"""What a backward is handed: gradients of any layout, and what hooks give back of the tensors that were saved."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import batchnorm as bn
from batchnorm.errors import DtypeError, ShapeError

SHAPE = (4, 3, 5, 5)


@pytest.mark.parametrize("act", [None, "relu", "silu"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_checkpointed_layer_takes_an_expanded_gradient(backend: str, act: str | None) -> None:
    x = torch.randn(SHAPE, requires_grad=True)
    layer = bn.BatchNorm2d(3)
    with bn.backend(backend):
        # A tensor that checkpointing saved may be unpacked once only; the gradient of a sum is not dense.
        checkpoint(lambda value: layer(value, act=act), x, use_reentrant=False).square().sum().backward()
        (plain,) = torch.autograd.grad(layer(x, act=act).square().sum(), x)
        checkpoint(lambda value: layer(value, act=act), x, use_reentrant=False).sum().backward()
    (summed,) = torch.autograd.grad(layer(x, act=act).sum(), x)
    torch.testing.assert_close(x.grad, plain + summed, rtol=1e-5, atol=1e-5)


def backward_with(unpack, residual: bool = False, **options) -> None:
    x = torch.randn(SHAPE, requires_grad=True)
    layer = bn.BatchNorm2d(3)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        output = layer(x, torch.randn(SHAPE) if residual else None, act="silu", **options)
    output.backward(torch.randn(SHAPE))


def test_hooks_that_give_back_another_dtype_are_an_error() -> None:
    with pytest.raises(DtypeError, match=r"gave the input back as .* torch\.float16"):
        backward_with(lambda tensor: tensor.half() if tensor.dim() == 4 else tensor)


@pytest.mark.parametrize("residual", [False, True])
def test_hooks_that_give_back_another_shape_are_an_error(residual: bool) -> None:
    with pytest.raises(ShapeError, match="saved_tensors_hooks gave the input back as"):
        backward_with(lambda tensor: tensor.repeat(50, 1, 1, 1) if tensor.dim() == 4 else tensor, residual)


def test_hooks_that_give_back_a_longer_weight_are_an_error() -> None:
    with pytest.raises(ShapeError, match=r"gave the weight back as \(6,\) .*, not as \(3,\)"):
        backward_with(lambda tensor: tensor.repeat(2) if tensor.dim() == 1 else tensor)


def test_hooks_that_give_back_a_narrower_weight_are_an_error() -> None:
    # The kernel would read twice as many bytes as there are.
    with pytest.raises(DtypeError, match=r"gave the weight back as \(3,\) torch\.bfloat16"):
        backward_with(lambda tensor: tensor.bfloat16() if tensor.dim() == 1 else tensor)


@pytest.mark.parametrize(
    ("change", "error"),
    [(lambda mask: mask[:1], ShapeError), (Tensor.float, DtypeError)],
    ids=["shape", "dtype"],
)
def test_hooks_that_give_back_another_mask_are_an_error(change, error) -> None:
    mask = torch.arange(math.prod(SHAPE) // 3).view(SHAPE[0], *SHAPE[2:]) > 1
    with pytest.raises(error, match="gave the mask back as"):
        backward_with(lambda tensor: change(tensor) if tensor.dtype == torch.bool else tensor, mask=mask)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("path", ["negated view", "plain"])
def test_a_narrow_gradient_is_rounded_once(path: str, create_graph: bool) -> None:
    # Terms beyond float16's range that cancel: added up in float16 they would be inf - inf.
    x = torch.randn(64, 3, dtype=torch.float64).half() * 1e-4
    given = ((-x)._neg_view() if path == "negated view" else x.clone()).requires_grad_()
    wide = x.double().requires_grad_()
    grad_output = 100 + torch.randn(64, 3).half()
    (found,) = torch.autograd.grad(
        bn.functional.batch_norm(given, None, None, training=True, eps=1e-12),
        given,
        grad_output,
        create_graph=create_graph,
    )
    (expected,) = torch.autograd.grad(
        bn.functional.batch_norm(wide, None, None, training=True, eps=1e-12), wide, grad_output.double()
    )
    torch.testing.assert_close(found.detach(), expected.half(), rtol=2e-3, atol=1)


@pytest.mark.parametrize(
    "mask", [None, torch.arange(100).view(4, 5, 5) > 3], ids=["short path", "general path"]
)
def test_a_gradient_of_zeros_without_memory_is_zeros(mask: Tensor | None) -> None:
    x = torch.randn(SHAPE, requires_grad=True)
    bn.BatchNorm2d(3)(x, act="relu", mask=mask).backward(torch._efficientzerotensor(SHAPE))
    torch.testing.assert_close(x.grad, torch.zeros(SHAPE))
