"""Derivatives by every road that torch has, of every activation with and without residual and mask.

The pure function is taken, in float64; finite differences or another road say what is right.
"""

import itertools

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import hessian, jacrev, jvp, vmap

import batchnorm as bn

ACTS = [None, "relu", "relu6", "leaky_relu", "silu", "gelu", "gelu_tanh", "hardswish", "elu"]
FORMS = ["plain", "residual", "masked", "residual and masked"]
CALLS = [
    pytest.param(act, form, training, id=f"{act}-{form}-{'training' if training else 'evaluation'}")
    for number, (act, form) in enumerate(itertools.product(ACTS, FORMS))
    for training in ([True, False] if act in (None, "relu", "silu") else [bool(number % 2)])
]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def given(act, form, training):
    """A function of (x, weight, bias, residual), and values for them that lie off the kinks."""
    mask = torch.rand(5, 2, 2, generator=torch.Generator().manual_seed(1)) < 0.7
    stats = randn(3, seed=2), randn(3, seed=3).square() + 0.5

    def function(x, weight, bias, residual):
        return bn.functional.batch_norm_with_stats(
            x,
            *stats,
            weight,
            bias,
            training,
            residual=residual if "residual" in form else None,
            act=act,
            mask=mask if "masked" in form else None,
        )[0]

    return function, (randn(5, 3, 2, 2), randn(3, seed=4) + 1.5, randn(3, seed=5), randn(5, 3, 2, 2, seed=6))


@pytest.mark.parametrize(("act", "form", "training"), CALLS)
def test_forward_mode_and_batched_gradients_against_finite_differences(act, form, training) -> None:
    function, values = given(act, form, training)
    leaves = [value.requires_grad_() for value in values]
    assert torch.autograd.gradcheck(
        function, leaves, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )


@pytest.mark.parametrize(("act", "form", "training"), CALLS)
def test_second_derivatives_against_finite_differences(act, form, training) -> None:
    function, values = given(act, form, training)
    assert torch.autograd.gradgradcheck(function, [value.requires_grad_() for value in values])


@pytest.mark.parametrize(("act", "form", "training"), CALLS)
def test_jvp_and_dual_numbers_agree(act, form, training) -> None:
    function, values = given(act, form, training)
    tangents = [randn(*value.shape, seed=7) for value in values]
    output, tangent = jvp(function, values, tuple(tangents))
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(*pair) for pair in zip(values, tangents, strict=True)]
        both = forward_ad.unpack_dual(function(*duals))
    torch.testing.assert_close(both.primal, output)
    torch.testing.assert_close(both.tangent, tangent)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("act", ["silu", "relu"])
def test_hessians(act, training) -> None:
    function, (x, *rest) = given(act, "residual and masked", training)

    def loss(x):
        return function(x, *rest).pow(3).sum()

    found = hessian(loss)(x)
    torch.testing.assert_close(found, torch.autograd.functional.hessian(loss, x))
    torch.testing.assert_close(jacrev(jacrev(loss))(x), found)


@pytest.mark.parametrize(("act", "form", "training"), CALLS)
def test_vmap_over_any_dimension_and_nested(act, form, training) -> None:
    function, (_, *rest) = given(act, form, training)
    xs = randn(5, 4, 3, 2, 2, seed=8)
    mapped = vmap(lambda x: function(x, *rest), in_dims=1)(xs)
    torch.testing.assert_close(mapped, torch.stack([function(x, *rest) for x in xs.unbind(1)]))
    twice = torch.stack([xs, xs.flip(0)]).movedim(2, 0)  # (4, 2, 5, 3, 2, 2)
    nested = vmap(vmap(lambda x: function(x, *rest)), in_dims=1)(twice)
    torch.testing.assert_close(nested[0], mapped)
