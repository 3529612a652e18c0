import numpy as np
import pytest
import torch

from batchnorm.lab.experiments import initialization as module
from batchnorm.lab.experiments import load
from batchnorm.lab.models import ball_net
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "initialization"


def test_contract():
    check(NAME)


def records(none=0.25, kaiming=1.0, batch=3.0, gradient=4.0):
    """All seeds with these ratios, but for a thousandth."""
    lines = miniature(NAME)
    for arm, ratio in (("none", none), ("kaiming", kaiming), ("batch", batch)):
        lines = doctored(lines, {"activation_std": 2.0}, arm=arm, layer=1)
        for seed in range(5):
            wide = ratio and 2 * ratio * (1 + 1e-3 * (seed - 2))
            lines = doctored(lines, {"activation_std": wide}, arm=arm, layer=5, seed=seed)
    lines = doctored(lines, {"gradient_std": 1.0}, arm="batch", layer=2)
    for seed in range(5):
        lines = doctored(
            lines, {"gradient_std": gradient * (1 + 1e-3 * (seed - 2))}, arm="batch", layer=1, seed=seed
        )
    return lines


@pytest.mark.parametrize(
    ("ratios", "holds", "verdict"),
    [
        ({}, [True, True, True, True], "reproduced"),
        ({"none": 0.31}, [False, True, True, True], "partly"),
        ({"kaiming": 0.6}, [True, False, True, True], "partly"),
        ({"kaiming": 1.6}, [True, False, True, True], "partly"),
        ({"batch": 0.9}, [True, True, False, True], "partly"),
        ({"gradient": 2.9}, [True, True, True, False], "partly"),
        ({"none": 1.0, "kaiming": 0.1, "batch": 0.5, "gradient": 1.0}, [False] * 4, "not reproduced"),
    ],
)
def test_verdict_turns(ratios, holds, verdict):
    found = load(NAME).verdict(records(**ratios))
    assert [part.holds for part in found.checks] == holds
    assert found.verdict == verdict
    assert found.value == pytest.approx(ratios.get("batch", 3.0), rel=1e-4)


def test_a_mean_within_the_bounds_is_not_enough():
    lines = doctored(records(), {"activation_std": 1.0}, arm="kaiming", layer=5, seed=0)
    assert [part.holds for part in load(NAME).verdict(lines).checks] == [True, False, True, True]


def test_a_seed_without_a_number_meets_no_bound():
    lines = doctored(records(), {"activation_std": None}, arm="none", layer=5, seed=3)
    assert [part.holds for part in load(NAME).verdict(lines).checks] == [False, True, True, True]


def test_points_fill_a_ball_and_its_radius_decides_their_class():
    x, y = (each.double().numpy() for each in module._ball(20_000, 1))
    assert x.std() == pytest.approx(1, abs=1e-5)
    radius = np.linalg.norm(x, axis=1)
    full = radius.max()
    # Evenly in the volume: the share within r is (r / R)^10.
    for share in (0.1, 0.5, 0.9):
        assert np.mean(radius < full * share**0.1) == pytest.approx(share, abs=0.02)
    assert np.mean(y[:, 0] == (np.abs(x.sum(1)) > full / 2)) > 0.999
    assert 0.4 < y.mean() < 0.8


@pytest.mark.parametrize("arm", ["none", "kaiming", "batch"])
def test_spreads_are_those_of_the_formulas_in_float64(arm):
    """Forward and back through matrices, ReLUs and batch norms by hand, with numpy."""
    x, y = (each.double().numpy() for each in module._ball(1000, 2))
    torch.manual_seed(2)
    net = ball_net("none", init="kaiming" if arm == "kaiming" else "normal")
    weights = [layer.linear.weight.detach().double().numpy() for layer in net.hidden]
    output = net.output.weight.detach().double().numpy()
    outputs, kept, h = [], [], x
    for weight in weights:
        z = h @ weight.T
        a = np.maximum(z, 0)
        outputs.append(a.std())
        deviation = np.sqrt(a.var(0) + 1e-5) if arm == "batch" else np.ones(100)
        n = (a - a.mean(0)) / deviation if arm == "batch" else a
        kept.append((h, z, n, deviation))
        h = n
    gradient = (1 / (1 + np.exp(-h @ output.T)) - y) / len(x) @ output
    spreads = []
    for weight, (h, z, n, deviation) in reversed(list(zip(weights, kept, strict=True))):
        if arm == "batch":
            gradient = (gradient - gradient.mean(0) - n * (gradient * n).mean(0)) / deviation
        gradient = gradient * (z > 0)
        spreads.append((gradient.T @ h).std())
        gradient = gradient @ weight
    found = [line for line in miniature(NAME) if line["arm"] == arm and line["seed"] == 2]
    assert [line["layer"] for line in found] == [1, 2, 3, 4, 5]
    assert [line["activation_std"] for line in found] == pytest.approx(outputs, rel=1e-4)
    assert [line["gradient_std"] for line in found] == pytest.approx(spreads[::-1], rel=1e-3)
    assert all(len(line["gradient_quantiles"]) == 41 for line in found)
