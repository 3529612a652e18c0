"""batch_norm against the float64 definition over the case table: outputs, gradients, statistics."""

import pytest
import torch
from torch import Tensor

import batchnorm as bn
from tests.contract.cases import CASES, OPTIONS, Case, Tensors, make
from tests.contract.oracle import oracle

pytestmark = pytest.mark.usefixtures("on")


def run(case: Case, given: Tensors) -> Tensor:
    return bn.functional.batch_norm(
        given.x,
        given.running_mean,
        given.running_var,
        given.weight,
        given.bias,
        training=case.training,
        momentum=0.25,
        residual=given.residual,
        act=case.act,
        mask=given.mask,
        channel_dim=given.channel_dim,
    )


def reference(case: Case, given: Tensors):
    running = None if case.training else (given.running_mean, given.running_var)
    return oracle(
        given.x,
        weight=given.weight,
        bias=given.bias,
        residual=given.residual,
        act=case.act,
        mask=given.mask,
        running=running,
        channel_dim=given.channel_dim,
    )


def one_ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    rounded = values.to(dtype).double()
    step = torch.finfo(dtype).eps * torch.exp2(torch.floor(torch.log2(rounded.abs().clamp(min=1e-30))))
    return step.clamp(min=torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps)


def assert_output(actual: Tensor, expected, dtype: torch.dtype) -> None:
    error = (actual.double() - expected.output).abs()
    if dtype in (torch.float32, torch.float64):
        bound = (1e-6 if dtype == torch.float32 else 1e-12) * expected.magnitude.clamp(min=1)
    else:
        rounded = expected.output.to(dtype).double()
        error = (actual.double() - rounded).abs()
        bound = one_ulp(expected.output, dtype)
    assert bool((error <= bound).all()), (
        f"largest error {error.max():.3g}, {(error / bound).max():.3g} times the bound"
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_running_statistics(case: Case) -> None:
    given = make(case)
    expected = reference(case, given)
    before = [None if t is None else t.clone() for t in (given.running_mean, given.running_var)]
    actual = run(case, given)
    assert actual.dtype == given.x.dtype
    assert actual.shape == given.x.shape
    assert_output(actual, expected, case.dtype)
    if not case.running:
        return
    for old, new, batch in zip(
        before, (given.running_mean, given.running_var), (expected.mean, expected.unbiased_var), strict=True
    ):
        wanted = 0.75 * old.double() + 0.25 * batch if case.training else old.double()
        torch.testing.assert_close(new.double(), wanted, rtol=2e-7, atol=2e-7)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(case: Case) -> None:
    given = make(case)
    grad_output = torch.randn(given.x.shape, generator=torch.Generator().manual_seed(1)).to(case.dtype)
    named = {"x": given.x, "weight": given.weight, "bias": given.bias, "residual": given.residual}
    leaves = {name: tensor for name, tensor in named.items() if tensor is not None}
    for name, tensor in leaves.items():
        setattr(given, name, tensor.detach().requires_grad_())
    actual = torch.autograd.grad(run(case, given), [getattr(given, n) for n in leaves], grad_output)
    for name, tensor in leaves.items():
        setattr(given, name, tensor.detach().double().requires_grad_())
    expected = torch.autograd.grad(
        reference(case, given).output, [getattr(given, n) for n in leaves], grad_output.double()
    )
    for name, mine, truth in zip(leaves, actual, expected, strict=True):
        assert mine.dtype == leaves[name].dtype
        bound = gradient_bound(case, given, name, grad_output)
        error = (mine.double() - truth).abs()
        assert bool((error <= bound).all()), f"{name}: {(error / bound).max():.3g} times the bound"


def gradient_bound(case: Case, given: Tensors, name: str, grad_output: Tensor) -> Tensor:
    """2e-6 of the largest absolute term in the formula (activations have slopes up to 1.13), plus rounding."""
    x = given.x.detach().double()
    keep = torch.ones(()) if given.mask is None else given.mask.unsqueeze(given.channel_dim)
    grad = (grad_output.double() * keep).abs() * (1.2 if case.act else 1.0)
    dims = [dim for dim in range(x.dim()) if dim != given.channel_dim % x.dim()]
    moments = oracle(x, mask=given.mask, channel_dim=given.channel_dim)
    mean, var = moments.mean, moments.biased_var
    if not case.training:
        mean, var = given.running_mean.double(), given.running_var.double()
    shape = [1] * x.dim()
    shape[given.channel_dim] = -1
    xhat = ((x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()).abs() * keep
    count = keep.sum().item() if given.mask is not None else x.numel() / x.size(given.channel_dim)
    if name == "x":
        scale = (var + 1e-5).rsqrt() * (1 if given.weight is None else given.weight.detach().double().abs())
        terms = grad
        if case.training:
            terms = torch.maximum(grad, grad.sum(dims, keepdim=True) / count)
            terms = torch.maximum(terms, xhat * (grad * xhat).sum(dims, keepdim=True) / count)
        largest = terms * scale.view(shape)
    elif name == "residual":
        largest = grad
    else:
        largest = (grad * xhat if name == "weight" else grad).sum(dims)
    rounding = {torch.float32: 2e-6, torch.float64: 1e-12}.get(case.dtype, 1.5 * torch.finfo(case.dtype).eps)
    return rounding * largest + 1e-12 + torch.finfo(case.dtype).tiny


def test_the_table_holds_every_possible_pair() -> None:
    seen = {(a, getattr(c, a), b, getattr(c, b)) for c in CASES for a in OPTIONS for b in OPTIONS if a < b}
    for a in OPTIONS:
        for b in OPTIONS:
            if a >= b:
                continue
            missing = [
                (x, y)
                for x in OPTIONS[a]
                for y in OPTIONS[b]
                if (a, x, b, y) not in seen
                and {a: x, b: y} != {"running": False, "training": False}
                and not (
                    {a: x, b: y}.get("layout") == "channels_last"
                    and len({a: x, b: y}.get("shape", (1,) * 4)) < 4
                )
            ]
            assert not missing, (a, b, missing)
