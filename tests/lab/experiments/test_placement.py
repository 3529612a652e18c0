import numpy as np
import pytest
import torch

from batchnorm.lab.experiments import load
from batchnorm.lab.experiments import placement as module
from batchnorm.lab.models import construct
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "placement"
SMALLER = {"steps": 1}
BEST = 0.05


def test_contract():
    check(NAME, **SMALLER)


def records(spread, *, sigmoid=None, after=0.0):
    """Accuracies that fall by an arm's `spread` from relu to sigmoid; `sigmoid` is its fall without batch norm."""
    lines = doctored(miniature(NAME, **SMALLER), {"validation": 0.5, "test": 0.0})
    for arm in module.ARMS:
        for place, activation in enumerate(module.ACTIVATIONS):
            fall = spread.get(arm, 0.02) * place / 5
            if arm == "none" and activation == "sigmoid" and sigmoid is not None:
                fall = sigmoid
            for line in lines:
                if (line["arm"], line["activation"], line["lr"]) == (arm, activation, BEST):
                    jitter = 1e-4 * (line["seed"] - 2) * (activation == "relu")
                    line["validation"], line["test"] = (
                        0.6,
                        0.9 - fall + jitter + after * arm.startswith("after"),
                    )
    return lines


@pytest.mark.parametrize(
    ("spread", "holds", "verdict"),
    [
        ({"none": 0.1}, [True] * 4, "reproduced"),
        ({"none": 0.1, "after": 0.11}, [True, True, False, True], "partly"),
        ({"none": 0.1, "before": 0.2}, [False, True, True, True], "partly"),
        ({"none": 0.01}, [False] * 4, "not reproduced"),
    ],
)
def test_verdict_turns(spread, holds, verdict):
    found = load(NAME).verdict(records(spread))
    assert [part.holds for part in found.checks] == holds
    assert found.verdict == verdict
    assert found.value == pytest.approx(spread["none"] - spread.get("after", 0.02), abs=1e-3)
    assert "sigmoid" not in found.surprise


def test_a_spread_that_sigmoid_alone_makes_is_said():
    found = load(NAME).verdict(records({"none": 0.01}, sigmoid=0.4))
    assert found.verdict == "reproduced"
    assert "rests on sigmoid" in found.surprise


def test_the_sign_is_reported_in_both_directions():
    for after, said in ((0.03, False), (-0.03, True)):
        found = load(NAME).verdict(records({"none": 0.1}, after=after))
        assert f"{100 * after:+.1f} points" in found.finding
        assert ("before the activation did better" in found.surprise) is said
        assert found.verdict == "reproduced"


def test_without_a_rate_that_trained_nothing_is_shown_and_nothing_holds():
    lost = doctored(records({"none": 0.1}), {"validation": None, "test": None}, arm="none", activation="tanh")
    found = load(NAME).verdict(lost)
    assert [part.holds for part in found.checks] == [False] * 4
    assert found.value is None
    assert load(NAME).figures(lost)


def test_best_minus_worst_is_taken_at_the_rate_that_validation_chose():
    lines = doctored(
        records({"none": 0.1}), {"validation": 0.9, "test": 0.1}, arm="none", activation="tanh", lr=0.25
    )
    assert module._spreads(lines, "none")[2] == pytest.approx(0.8)
    assert module._spreads(lines, "none", ("relu", "sigmoid"))[2] == pytest.approx(0.1)


@pytest.mark.parametrize("place", ["none", "before", "after"])
def test_lsuv_makes_outputs_of_variance_one_from_orthogonal_weights(place):
    """Forward by hand in float64 through all layers."""
    torch.manual_seed(0)
    norm = "none" if place == "none" else "batch"
    net = construct("mlp", norm, place if norm == "batch" else "before", input_shape=(64,), num_classes=10,
                    hidden=(32, 32), activation="tanh")  # fmt: skip
    x = torch.randn(256, 64)
    module._unit_variance(net, x)
    assert all(
        layer.num_batches_tracked == 0 for layer in net.modules() if hasattr(layer, "num_batches_tracked")
    )
    h = x.double().numpy()
    for linear in [*(layer.linear for layer in net.hidden), net.output]:
        weight = linear.weight.detach().double().numpy()
        gram = weight @ weight.T
        assert np.abs(gram / gram[0, 0] - np.eye(len(gram))).max() < 1e-5
        z = h @ weight.T
        assert z.std() == pytest.approx(1, abs=1e-4)
        normed = (lambda v: (v - v.mean(0)) / np.sqrt(v.var(0) + 1e-5)) if norm == "batch" else (lambda v: v)
        h = np.tanh(normed(z)) if place == "before" else normed(np.tanh(z))
