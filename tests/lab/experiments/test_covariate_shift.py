import math

import pytest
import torch

from batchnorm.lab.experiments import covariate_shift as module
from batchnorm.lab.experiments import load
from batchnorm.moments import Moments
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "covariate-shift"
SMALLER = {"steps": 20}


def test_contract():
    check(NAME, **SMALLER)


def records(*, noisy=0.98, batch=0.985, none=0.95, drift=3.0, cosine=0.999, shift=200.0):
    lines = miniature(NAME, **SMALLER)
    for arm, accuracy in (("noisy", noisy), ("batch", batch), ("none", none)):
        for seed in range(3):
            scores = {"validation": accuracy, "test": accuracy + 0.0005 * seed * (arm == "noisy")}
            lines = doctored(lines, scores, net="vgg", arm=arm, step=None, seed=seed)
    for arm, amount in (("noisy", drift), ("none", 1.0)):
        for seed in range(3):
            moved = {"mean_drift": amount * (1 + 0.01 * seed), "var_drift": amount * (1 + 0.01 * seed)}
            lines = doctored(lines, moved, net="vgg", arm=arm, step=20, seed=seed)
    lines = doctored(lines, {"shift": [shift] * 24}, net="linear", arm="batch")
    return doctored(lines, {"shift": [1.0] * 24, "cosine": [cosine] * 24}, net="linear", arm="none")


@pytest.mark.parametrize(
    ("changed", "failing", "verdict"),
    [
        ({}, [], "reproduced"),
        ({"noisy": 0.96}, [0], "partly"),
        ({"none": 0.981}, [1], "partly"),
        ({"drift": 0.5}, [2, 3], "partly"),
        ({"cosine": 0.98}, [4, 6], "partly"),
        ({"shift": 90.0}, [5, 7], "partly"),
        ({"noisy": 0.9, "drift": 0.5, "cosine": 0.9, "shift": 1.0}, list(range(8)), "not reproduced"),
    ],
)
def test_verdict_turns(changed, failing, verdict):
    found = load(NAME).verdict(records(**changed))
    assert [place for place, part in enumerate(found.checks) if not part.holds] == failing
    assert found.verdict == verdict
    assert found.value == pytest.approx(changed.get("shift", 200.0))


def test_what_contradicts_the_paper_is_said_first():
    assert load(NAME).verdict(records()).contradiction == ""
    worse = load(NAME).verdict(records(noisy=0.9)).contradiction
    assert "accuracy" in worse
    assert "drifted" not in worse
    steadier = load(NAME).verdict(records(drift=0.5)).contradiction
    assert steadier.startswith("Means of units drifted less")
    assert "variances of units drifted less" in steadier


def test_a_seed_without_a_number_meets_no_bound():
    lines = doctored(records(), {"validation": None, "test": None}, net="vgg", arm="noisy", seed=1, step=None)
    assert [part.holds for part in load(NAME).verdict(lines).checks][:2] == [False, False]


def test_the_rate_is_chosen_on_the_validation_split():
    lines = doctored(records(), {"validation": 0.99, "test": 0.5}, net="vgg", arm="none", lr=0.1, step=None)
    assert module._best(lines, "none") == 0.1
    lines = doctored(lines, {"validation": None}, net="vgg", arm="none", lr=0.1, seed=0, step=None)
    assert module._best(lines, "none") != 0.1


def test_drift_of_moments():
    before = Moments(2, torch.tensor([0.0, 1.0]).double(), torch.tensor([4.0, 1.0]).double())
    after = Moments(2, torch.tensor([1.0, 1.0]).double(), torch.tensor([4.0, math.e]).double())
    mean, variance = module._drift([before], [after])
    assert mean == pytest.approx((1 / 2 + 0) / 2)
    assert variance == pytest.approx((0 + 1) / 2)


def test_shift_of_the_last_layer_in_float64():
    """With the other 24 matrices moved, the last one's gradient by hand."""
    (line,) = (
        each
        for each in miniature(NAME, **SMALLER)
        if (each["net"], each["arm"], each["seed"], each["step"]) == ("linear", "none", 1, 0)
        and (each["spread"], each["lr"]) == (1.0, 1e-7)
    )
    from batchnorm.lab.models import deep_linear

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1000, 10, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(10, 10, generator=generator, dtype=torch.float64).T
    torch.manual_seed(1)
    weights = [weight.detach().double() for weight in deep_linear("none").parameters()]

    def forward(matrices):
        hidden = [x]
        for matrix in matrices:
            hidden.append(hidden[-1] @ matrix.T)
        return hidden

    hidden = forward(weights)
    gradient = 2 * (hidden[-1] - y)
    gradients = []
    for weight, below in zip(reversed(weights), reversed(hidden[:-1]), strict=True):
        gradients.insert(0, gradient.T @ below)
        gradient = gradient @ weight
    moved = [w - 1e-7 * g for w, g in zip(weights[:-1], gradients[:-1], strict=True)]
    hidden = forward([*moved, weights[-1]])
    second = (2 * (hidden[-1] - y)).T @ hidden[-2]
    assert line["shift"][-1] == pytest.approx((second - gradients[-1]).norm().item(), rel=1e-6)
    cosine = (second * gradients[-1]).sum() / second.norm() / gradients[-1].norm()
    assert line["cosine"][-1] == pytest.approx(cosine.item(), rel=1e-9)
