import numpy as np
import pytest
import torch

from batchnorm.lab.deep_linear import descend, problem
from batchnorm.lab.experiments import load
from batchnorm.lab.models import deep_linear
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "smoother-landscape"
SMALLER = {"steps": 20}


def test_contract():
    check(NAME, **SMALLER)


def records(*, loss=0.4, ratio=200.0, vgg=2.0):
    lines = miniature(NAME, **SMALLER)
    for arm, value, beta in (("none", 1000.0, ratio * 2e6), ("batch", loss * 1000.0, 2e6)):
        lines = doctored(lines, {"loss": value, "beta": 1.0}, net="linear", arm=arm)
        lines = doctored(lines, {"beta": beta}, net="linear", arm=arm, step=10)
    for arm, beta in (("none", vgg), ("batch", 1.0)):
        for seed in range(3):
            lines = doctored(
                lines, {"beta": beta * (1 + 0.01 * seed * (arm == "none"))}, net="vgg", arm=arm, seed=seed
            )
    return lines


@pytest.mark.parametrize(
    ("changed", "holds", "verdict"),
    [
        ({}, [True] * 6, "reproduced"),
        ({"loss": 0.6}, [False] * 3 + [True] * 3, "partly"),
        ({"ratio": 90.0}, [True] * 3 + [False] * 2 + [True], "partly"),
        ({"vgg": 0.9}, [True] * 5 + [False], "partly"),
        ({"loss": 0.6, "ratio": 1.0, "vgg": 0.9}, [False] * 6, "not reproduced"),
    ],
)
def test_verdict_turns(changed, holds, verdict):
    found = load(NAME).verdict(records(**changed))
    assert [part.holds for part in found.checks] == holds
    assert found.verdict == verdict
    assert found.value == pytest.approx(changed.get("ratio", 200.0))


def test_a_rougher_landscape_with_batch_norm_is_said_first():
    assert load(NAME).verdict(records()).contradiction == ""
    said = load(NAME).verdict(records(ratio=0.01)).contradiction
    assert "larger with batch norm" in said
    assert "VGG" not in said
    assert "VGG" in load(NAME).verdict(records(vgg=0.5)).contradiction


def test_a_seed_that_diverged_meets_no_bound():
    lines = doctored(records(), {"loss": None}, net="linear", arm="batch", seed=1, step=20)
    found = load(NAME).verdict(lines)
    assert [part.holds for part in found.checks] == [False] * 3 + [True] * 3
    assert "1 of 3 seeds diverged" in found.checks[0].measured


def test_the_descent_is_that_of_the_formulas_in_float64():
    """Two steps of gradient descent on the product of matrices, by hand, with numpy."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1000, 10, generator=generator, dtype=torch.float64).numpy()
    y = x @ (0.5 * torch.randn(10, 10, generator=generator, dtype=torch.float64)).numpy().T
    torch.manual_seed(3)
    weights = [weight.detach().double().numpy() for weight in deep_linear("none").parameters()]
    for _ in range(2):
        hidden = [x]
        for weight in weights:
            hidden.append(hidden[-1] @ weight.T)
        gradient = 2 * (hidden[-1] - y)
        moved = []
        for weight, below in zip(reversed(weights), reversed(hidden[:-1]), strict=True):
            moved.insert(0, weight - 1e-6 * gradient.T @ below)
            gradient = gradient @ weight
        weights = moved
    output = x
    for weight in weights:
        output = output @ weight.T
    seen = []
    last = descend(
        "none",
        problem(3, 0.5),
        lr=1e-6,
        steps=2,
        seed=3,
        look_at={0, 2},
        look=lambda step, net: seen.append((step, net.training)),
    )
    assert last == pytest.approx(np.square(output - y).sum(), rel=1e-9)
    assert seen == [(0, True), (2, True)]


def test_a_loss_that_is_not_finite_ends_the_descent():
    seen = []
    settings = {"lr": 1e3, "steps": 50, "seed": 0, "look_at": {0, 50}}
    last = descend("none", problem(0, 1.0), look=lambda step, net: seen.append(step), **settings)
    assert not np.isfinite(last)
    assert seen == [0]
