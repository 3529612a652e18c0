import pytest

from batchnorm.lab.experiments import load
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "identity-branches"
SMALLER = {"blocks": 3, "width": 16, "steps": 2, "draws": 2}


def test_contract():
    check(NAME, **SMALLER)


def records():
    """As the paper has it."""
    lines = miniature(NAME, **SMALLER)
    for arm, accuracy in {
        "none": None,
        "batch": 1.0,
        "skipinit": 0.95,
        "alpha-one": 0.2,
        "halved": 0.3,
    }.items():
        lines = doctored(lines, {"train": accuracy, "test": accuracy}, arm=arm, part="training")
    for seed in range(3):
        spread = 0.01 * (seed - 1)
        batch, none = [2, 3 + spread, 4 + 2 * spread], [2.0, 4.0, 8.0 * (1 + spread)]
        lines = doctored(lines, {"second": batch}, arm="batch", part="moments", seed=seed)
        lines = doctored(lines, {"second": none}, arm="none", part="moments", seed=seed)
    return lines


def holds(lines):
    return [part.holds for part in load(NAME).verdict(lines).checks]


def test_reproduced_where_the_records_are_as_published():
    found = load(NAME).verdict(records())
    assert found.verdict == "reproduced"
    assert found.value == pytest.approx(1.0)
    assert "no finite loss without normalization" in found.finding
    assert "-5.0 points" in found.finding


@pytest.mark.parametrize(
    ("change", "where", "missed"),
    [
        ({"second": [2.0, 3.1, 4.2]}, {"arm": "batch", "part": "moments"}, 0),
        ({"second": [2.0, 3.0, 4.4]}, {"arm": "batch", "part": "moments", "seed": 1}, 0),
        ({"second": [2.0, 3.0, None]}, {"arm": "batch", "part": "moments", "seed": 1}, 0),
        ({"second": [2.0, 3.0, 4.0]}, {"arm": "none", "part": "moments"}, 1),
        ({"train": 0.89}, {"arm": "batch", "part": "training", "seed": 2}, 2),
        ({"train": None}, {"arm": "skipinit", "part": "training", "seed": 2}, 3),
        ({"train": 0.9}, {"arm": "none", "part": "training", "seed": 0}, 4),
        ({"train": 0.95}, {"arm": "alpha-one", "part": "training"}, 5),
    ],
)
def test_each_part_turns(change, where, missed):
    assert holds(doctored(records(), change, **where)) == [number != missed for number in range(6)]


def test_not_reproduced_where_all_is_the_other_way_round():
    lines = doctored(records(), {"second": [1.0, 1.0, 1.0]}, part="moments")
    for arm, accuracy in {"none": 1.0, "alpha-one": 1.0, "batch": 0.1, "skipinit": None}.items():
        lines = doctored(lines, {"train": accuracy}, arm=arm, part="training")
    assert load(NAME).verdict(lines).verdict == "not reproduced"
