import pytest
import torch

from batchnorm.lab.experiments import load
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "layer-norm"


def test_contract():
    check(NAME)


def test_reproduced_and_what_each_check_needs():
    verdict = load(NAME).verdict
    records = miniature(NAME)
    assert verdict(records).verdict == "reproduced"
    assert [
        part.holds
        for part in verdict(doctored(records, {"moved_in_training": 0.1}, arm="batch", seed=1)).checks
    ] == [
        False,
        True,
    ]
    assert [
        part.holds
        for part in verdict(doctored(records, {"moved_in_training": 1e-9}, arm="layer", seed=2)).checks
    ] == [
        True,
        False,
    ]
    both = doctored(
        doctored(records, {"moved_in_training": 0.0}, arm="batch"), {"moved_in_training": 1.0}, arm="layer"
    )
    assert verdict(both).verdict == "not reproduced"


def test_a_number_that_is_not_finite_meets_no_bound():
    records = doctored(miniature(NAME), {"moved_in_training": None}, seed=0)
    assert load(NAME).verdict(records).verdict == "not reproduced"


def test_the_move_is_that_of_the_formula_in_float64():
    torch.manual_seed(2)
    sample = torch.randn(1, 256).double()
    companions, others = (torch.randn(2, 256)[1:].double() for _ in range(2))

    def first_of_two(other):
        # Of a and b, mean (a + b) / 2 and biased variance h^2 with h = (a - b) / 2.
        half = (sample - other) / 2
        return half / (half.square() + 1e-5).sqrt()

    moved = (first_of_two(others) - first_of_two(companions)).abs().max().item()
    (line,) = (each for each in miniature(NAME) if each["seed"] == 2 and each["arm"] == "batch")
    assert line["moved_in_training"] == pytest.approx(moved, abs=1e-6)


def test_the_maps_are_the_axes_that_each_norm_averages():
    maps = {
        line["arm"]: torch.tensor(line["depends"]).view(3, 4, 3)
        for line in miniature(NAME)
        if line["seed"] == 0
    }
    expected = {arm: torch.zeros(3, 4, 3, dtype=torch.int64) for arm in maps}
    expected["batch"][:, 0] = 1
    expected["layer"][0] = 1
    expected["group"][0, :2] = 1
    expected["instance"][0, 0] = 1
    assert maps.keys() == {"batch", "layer", "group", "instance"}
    for arm, found in maps.items():
        assert torch.equal(found, expected[arm])


def test_in_evaluation_no_norm_depends_on_companions():
    assert {line["moved_in_evaluation"] for line in miniature(NAME)} == {0.0}
