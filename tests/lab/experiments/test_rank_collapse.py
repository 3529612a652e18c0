import numpy as np
import pytest
import torch

from batchnorm.lab.experiments import load
from batchnorm.lab.models import stack
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "rank-collapse"
SMALLER = {"layers": 120, "batch": 32}
WIDTHS = (8, 16, 32, 64)


def test_contract():
    check(NAME, **SMALLER)


def records(power, none=1.0):
    lines = doctored(miniature(NAME, **SMALLER), {"level": 2.0, "last": none}, arm="none")
    for seed in range(3):
        for width in WIDTHS:
            level = 0.8 * width ** (power + 0.01 * (seed - 1))
            lines = doctored(lines, {"level": level}, arm="batch", width=width, seed=seed)
    return lines


@pytest.mark.parametrize(
    ("power", "none", "holds", "verdict"),
    [
        (0.5, 1.0, [True, True], "reproduced"),
        (0.43, 1.0, [True, True], "reproduced"),
        (0.59, 1.0, [False, True], "partly"),  # its interval reaches .615
        (0.3, 1.0, [False, True], "partly"),
        (0.5, 1.06, [True, False], "partly"),
        (0.0, 3.0, [False, False], "not reproduced"),
    ],
)
def test_verdict_turns(power, none, holds, verdict):
    found = load(NAME).verdict(records(power, none))
    assert [part.holds for part in found.checks] == holds
    assert found.verdict == verdict
    assert found.value == pytest.approx(power)


@pytest.mark.parametrize(("arm", "holds"), [("batch", [False, True]), ("none", [True, False])])
def test_a_level_that_is_not_finite_meets_no_bound(arm, holds):
    lines = doctored(records(0.5), {"level": None, "last": None}, arm=arm, width=16)
    assert [part.holds for part in load(NAME).verdict(lines).checks] == holds


def test_ranks_are_those_of_the_eigenvalues():
    """The rank from the singular values of numpy's own product of layers."""
    torch.manual_seed(2)
    net = stack(120, 16, "none", activation="linear")
    x = torch.randn(32, 16, dtype=torch.float64).numpy()
    expected = []
    for layer in net:
        x = x @ layer.linear.weight.detach().double().numpy().T
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
        eigenvalues = np.linalg.svd(x, compute_uv=False) ** 2
        expected.append(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())
    (line,) = (
        each
        for each in miniature(NAME, **SMALLER)
        if (each["arm"], each["width"], each["seed"]) == ("batch", 16, 2)
    )
    assert line["depths"][0] == 1
    assert line["depths"][-1] == 120
    assert line["ranks"][:10] == pytest.approx([expected[depth - 1] for depth in line["depths"][:10]])
    assert line["last"] == pytest.approx(expected[-1], rel=1e-4)
    assert line["level"] == pytest.approx(np.mean(expected[69::10]), rel=1e-4)
