import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from batchnorm.lab.data import cached
from batchnorm.lab.experiments import faster_training, load
from batchnorm.lab.models import sigmoid_net
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "faster-training"
SMALLER = {"steps": 3}
RATE = faster_training.RATE


def judged(none, batch, drifts=(3.0, 1.0), seeds=range(10)):
    """The verdict where both nets arrive at these steps and drift as far in `seeds`, and in others alike."""
    found = [line for line in miniature(NAME, **SMALLER) if "drift" in line]
    found = doctored(found, {"steps": 40})
    for seed in range(10):
        inside = seed in seeds
        found = doctored(found, {"arrived": none if inside else 40, "drift": drifts[0] if inside else 1.0},
                         arm="none", seed=seed)  # fmt: skip
        found = doctored(found, {"arrived": batch if inside else 40, "drift": drifts[1] if inside else 1.0},
                         arm="batch", seed=seed)  # fmt: skip
    others = [line for line in miniature(NAME, **SMALLER) if "arrived" in line and "drift" not in line]
    return load(NAME).verdict(found + others)


def test_contract():
    check(NAME, **SMALLER)


def test_each_part_of_the_criterion_turns():
    assert judged(100, 20).verdict == "reproduced"
    assert judged(100, 20).value == pytest.approx(5)
    assert [part.holds for part in judged(99, 20).checks] == [False, True]
    assert [part.holds for part in judged(100, 20, drifts=(2.9, 1.0)).checks] == [True, False]
    assert judged(20, 20, drifts=(1.0, 1.0)).verdict == "not reproduced"


def test_eight_of_ten_seeds_are_enough_and_seven_are_not():
    assert judged(100, 20, seeds=range(8)).verdict == "reproduced"
    assert judged(100, 20, seeds=range(7)).verdict == "not reproduced"


def test_a_net_that_never_arrives_counts_with_all_its_steps():
    assert [part.holds for part in judged(None, 8).checks] == [True, True]
    assert [part.holds for part in judged(None, 9).checks] == [False, True]
    assert "10 of 10 never got there" in judged(None, 8).checks[0].measured
    assert not judged(100, None).checks[0].holds


def test_what_diverged_drifts_no_distance():
    assert [part.holds for part in judged(100, 20, drifts=(None, 1.0)).checks] == [True, False]


def test_a_lead_that_goes_when_the_rate_is_tuned_is_said():
    found = [line for line in miniature(NAME, **SMALLER) if "arrived" in line]
    base = doctored(found, {"arrived": 200}, arm="none", lr=RATE)
    base = doctored(base, {"arrived": 20}, arm="batch")
    for tuned, said in ((20, True), (100, False)):
        assert (
            bool(load(NAME).verdict(doctored(base, {"arrived": tuned}, arm="none", lr=10.0)).surprise) is said
        )


@pytest.mark.parametrize("arm", ["none", "batch"])
def test_percentiles_at_the_start_are_numpys_on_the_digits(arm):
    [line] = [
        line for line in miniature(NAME, **SMALLER)
        if line.get("step") == 0 and line["arm"] == arm and line["seed"] == 2
    ]  # fmt: skip
    torch.manual_seed(2)
    net = sigmoid_net(arm)
    images = cached("digits")
    pixels = images.scaling.undo(images.test.x)[:, 0]
    x = (pixels.reshape(-1, 8, 4, 8, 4).mean((2, 4)) > 7.4 / 16).reshape(-1, 64).astype(np.float64)
    for layer in net.hidden:
        z = x @ layer.linear.weight.detach().double().numpy().T
        if arm == "batch":
            z = (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)
        x = 1 / (1 + np.exp(-z))
    expected = np.percentile(z[:, 0], [15, 50, 85])
    assert [line["low"], line["median"], line["high"]] == pytest.approx(expected.tolist(), abs=1e-5)


def test_binary_images_are_mostly_those_of_the_digits_as_they_are():
    # Averaging undoes the enlargement of the digits but for the share of neighbouring pixels.
    pixels = torch.from_numpy(load_digits().images).float()[:, None] / 16
    enlarged = torch.nn.functional.interpolate(pixels, size=(32, 32), mode="bilinear")
    again = torch.nn.functional.adaptive_avg_pool2d(enlarged, 8)
    same = (again > faster_training.DARK) == (pixels * 16 > 7)
    assert same.float().mean() > 0.9
