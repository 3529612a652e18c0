import math

import numpy as np
import pytest
import torch
from torch import nn

from batchnorm.lab.experiment import Task
from batchnorm.lab.experiments import larger_rates, load
from batchnorm.lab.perform import measure
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "larger-rates"
SMALLER = {"steps": 2, "samples": 48}


def ends(key):
    """The last lines of the runs; others do not have the field."""
    lines = miniature(NAME, **SMALLER)
    return [line for line in lines if key in line], [line for line in lines if key not in line]


def judged(none, batch):
    found, others = ends("largest")
    found = doctored(found, {"largest": none}, arm="none")
    found = doctored(found, {"largest": batch}, arm="batch")
    return load(NAME).verdict(found + others), found + others


def test_contract():
    check(NAME, **SMALLER)


@pytest.mark.parametrize(
    ("batch", "verdict"), [(1.6, "reproduced"), (1.59, "not reproduced"), (None, "not reproduced")]
)
def test_the_ratio_decides(batch, verdict):
    found, _ = judged(0.2, batch)
    assert found.verdict == verdict
    if batch is None:
        assert "3 of 6 runs never worked" in found.finding
    else:
        assert found.value == pytest.approx(batch / 0.2)


def test_the_ratio_from_scratch_is_that_of_the_largest_rates_that_work():
    found, others = ends("test_accuracy")
    for arm, most in (("none", 0.08), ("batch", 1.28)):
        for lr in larger_rates.FIXED:
            # A rate below that fails does not matter.
            right = 0.5 if lr == most else 0.49
            found = doctored(found, {"test_accuracy": right}, arm=arm, lr=lr)
    assert "have a ratio of 16.0 [16.0, 16.0]" in load(NAME).verdict(found + others).finding


def test_a_gain_at_the_same_small_rate_is_said():
    _, records = judged(0.2, 2.0)
    end = [line for line in records if "test_accuracy" in line]
    rest = [line for line in records if "test_accuracy" not in line]
    for high, said in ((0.6, True), (0.5, False)):
        lines = doctored(end, {"test_accuracy": 0.5}, arm="none", lr=larger_rates.SMALL)
        lines = doctored(lines, {"test_accuracy": high}, arm="batch", lr=larger_rates.SMALL)
        assert ("of no use" in load(NAME).verdict(lines + rest).contradiction) is said


def test_the_largest_rate_is_the_last_one_at_which_half_is_right():
    task = Task.of("batch", 0, lr=None, steps=10, samples=48, data="digits")
    *stages, end = measure(load(NAME), task)
    rates = [line["rate"] for line in stages]
    assert rates == pytest.approx(0.005 * np.sqrt(2) ** np.arange(len(rates)))
    assert end["largest"] == max(line["rate"] for line in stages if line["accuracy"] >= 0.5)
    assert end["largest"] > 1


def test_the_net_has_seven_normalised_convolutions_with_he_weights():
    torch.manual_seed(0)
    net = larger_rates._net("batch", 1, 10)
    assert net(torch.randn(32, 1, 8, 8)).shape == (32, 10)
    convs = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(convs) == len(norms) == 7
    assert not any(layer.affine for layer in norms)
    last = convs[-1].weight.detach().double().numpy()
    assert last.std() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)
    torch.manual_seed(0)
    plain = larger_rates._net("none", 1, 10)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), plain.parameters(), strict=True))
