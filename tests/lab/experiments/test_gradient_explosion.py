import numpy as np
import pytest
import torch

from batchnorm.lab.experiments import gradient_explosion as module
from batchnorm.lab.experiments import load
from batchnorm.lab.models import stack
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "gradient-explosion"
SMALLER = {"width": 64}


def test_contract():
    check(NAME, **SMALLER)


def records(batch, none):
    lines = miniature(NAME, **SMALLER)
    for seed in range(8):
        spread = 1 + 0.001 * (seed - 3.5)
        lines = doctored(lines, {"growth": batch * spread}, arm="batch", batch=512, seed=seed)
        lines = doctored(lines, {"growth": none * spread}, arm="none", seed=seed)
    return lines


@pytest.mark.parametrize(
    ("batch", "none", "holds", "verdict"),
    [
        (1.467, 1.01, [True, True], "reproduced"),
        (1.435, 1.0, [True, True], "reproduced"),
        (1.52, 1.0, [False, True], "partly"),
        (1.41, 1.0, [False, True], "partly"),
        (1.467, 1.05, [True, False], "partly"),
        (1.2, 1.2, [False, False], "not reproduced"),
    ],
)
def test_verdict_turns(batch, none, holds, verdict):
    found = load(NAME).verdict(records(batch, none))
    assert [part.holds for part in found.checks] == holds
    assert found.verdict == verdict
    assert found.value == pytest.approx(batch, rel=1e-4)


def test_a_mean_within_the_bounds_is_not_enough():
    lines = records(1.467, 1.0)
    for seed in range(8):
        lines = doctored(lines, {"growth": 1.267 + 0.4 * (seed % 2)}, arm="batch", batch=512, seed=seed)
    assert load(NAME).verdict(lines).verdict == "partly"


def test_a_seed_without_a_number_meets_no_bound():
    lines = doctored(records(1.467, 1.0), {"growth": None}, arm="batch", batch=512, seed=1)
    assert [part.holds for part in load(NAME).verdict(lines).checks] == [False, True]


def test_growth_is_the_slope_of_the_logarithms():
    assert module._growth([1.5**-layer for layer in range(30)]) == pytest.approx(1.5)
    assert module._growth([1.5**-layer if 4 <= layer < 25 else 7.0 for layer in range(30)]) == pytest.approx(
        1.5
    )
    assert module._growth([0.0] * 30) is None


def test_gradients_are_those_of_the_formulas_in_float64():
    """Backward through relu, batch norm and the matrices by hand, with numpy."""
    torch.manual_seed(1)
    weights = [layer.linear.weight.detach().double().numpy() for layer in stack(30, 64, "none")]
    x, gradient = (torch.randn(32, 64).double().numpy() for _ in range(2))
    kept = []
    for weight in weights:
        z = x @ weight.T
        deviation = np.sqrt(z.var(0) + 1e-5)
        normed = (z - z.mean(0)) / deviation
        kept.append((normed, deviation))
        x = np.maximum(normed, 0)
    expected = []
    for weight, (normed, deviation) in reversed(list(zip(weights, kept, strict=True))):
        expected.append(np.square(gradient).sum())
        g = gradient * (normed > 0)
        gradient = (g - g.mean(0) - normed * (g * normed).mean(0)) / deviation @ weight
    (line,) = (
        each
        for each in miniature(NAME, **SMALLER)
        if (each["arm"], each["batch"], each["seed"]) == ("batch", 32, 1)
    )
    assert line["squared"] == pytest.approx(expected[::-1], rel=1e-6)
