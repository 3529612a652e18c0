import pytest

from batchnorm.lab.experiments import load
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "rescale"
SMALLER = {"blocks": 3, "width": 16, "steps": 2, "draws": 2}


def test_contract():
    check(NAME, **SMALLER)


def records():
    lines = miniature(NAME, **SMALLER)
    for arm, accuracy in {"none": None, "batch": 1.0, "rescale": 0.95}.items():
        lines = doctored(lines, {"train": accuracy, "test": accuracy}, arm=arm, part="training")
    for seed in range(3):
        lines = doctored(lines, {"second": [1.0, 1.0, 0.98 + 0.01 * seed]}, part="moments", seed=seed)
    return lines


@pytest.mark.parametrize(
    ("change", "where", "holds"),
    [
        ({}, {"arm": "none"}, [True, True]),
        ({"second": [1.0, 1.0, 1.11]}, {"part": "moments"}, [False, True]),
        ({"second": [1.0, 1.0, 1.09]}, {"part": "moments", "seed": 2}, [False, True]),  # too wide an interval
        ({"second": [1.0, 1.0, None]}, {"part": "moments", "seed": 2}, [False, True]),
        ({"train": 0.89}, {"arm": "rescale", "part": "training", "seed": 1}, [True, False]),
        ({"train": None}, {"arm": "rescale", "part": "training", "seed": 1}, [True, False]),
        ({"train": 0.3}, {"arm": "none", "part": "training"}, [True, True]),
        ({"train": 0.9}, {"arm": "none", "part": "training", "seed": 0}, [True, False]),  # nothing to show
    ],
)
def test_verdict_turns(change, where, holds):
    found = load(NAME).verdict(doctored(records(), change, **where))
    assert [part.holds for part in found.checks] == holds
    assert found.verdict == ("reproduced" if all(holds) else "partly")


def test_not_reproduced():
    lines = doctored(records(), {"second": [1.0, 2.0, 4.0]}, part="moments")
    lines = doctored(lines, {"train": 0.2, "test": 0.2}, arm="rescale", part="training")
    found = load(NAME).verdict(lines)
    assert found.verdict == "not reproduced"
    assert found.value == 4.0
    assert "missed 90% too at 3" in found.finding
    assert "-80.0 points" in found.finding


def test_the_finding_where_the_plain_network_trains():
    found = load(NAME).verdict(doctored(records(), {"train": 1.0}, arm="none", part="training"))
    assert "stayed below 90% in every seed at no depth." in found.finding
