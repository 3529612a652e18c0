"""batch_norm against the float64 definition over the case table: outputs, gradients, statistics."""

import pytest
import torch
from torch import Tensor

import batchnorm as bn
from tests.contract.bounds import assert_output, gradient_error
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


@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_running_statistics(case: Case) -> None:
    given = make(case)
    expected = reference(case, given)
    before = [None if t is None else t.clone() for t in (given.running_mean, given.running_var)]
    actual = run(case, given)
    assert actual.dtype == given.x.dtype
    assert actual.shape == given.x.shape
    assert_output(actual, expected)
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
    stats = (given.running_mean, given.running_var)
    if case.training:
        moments = oracle(given.x.detach(), mask=given.mask, channel_dim=given.channel_dim)
        stats = moments.mean, moments.biased_var
    for name, mine, truth in zip(leaves, actual, expected, strict=True):
        assert mine.dtype == leaves[name].dtype
        error = gradient_error(
            mine, truth, name, x=given.x, grad_output=grad_output, weight=given.weight, act=case.act, mask=given.mask,
            stats=stats, training=case.training, channel_dim=given.channel_dim,
        )  # fmt: skip
        assert bool((error <= 1).all()), f"{name}: {error.max():.3g} times the bound"


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
