import pytest

from batchnorm.records import Store, read
from batchnorm.records.selection import distinct, measurements, seed_values, select, values

LINES = [
    {"arm": "none", "seed": 1, "lr": 0.5, "loss": 2.0},
    {"arm": "none", "seed": 0, "lr": 0.5, "loss": None},
    {"arm": "none", "seed": 0, "lr": 0.1, "loss": 3.0},
    {"arm": "batch", "seed": 0, "lr": 0.1, "loss": 1.0},
]


def test_select_takes_lines_with_all_of_the_fields():
    assert select(LINES, arm="none", seed=0) == LINES[1:3]
    assert select(LINES, arm="layer") == []
    assert select(LINES, depth=None) == LINES


def test_values_keep_their_places():
    assert values(LINES, "loss", arm="none") == [2.0, None, 3.0]
    assert values(LINES, "accuracy", seed=1) == [None]


def test_seed_values_are_one_a_seed_in_order():
    assert seed_values(LINES, "loss", arm="none", lr=0.5) == {0: None, 1: 2.0}
    assert list(seed_values(LINES, "loss", arm="none", lr=0.5)) == [0, 1]
    with pytest.raises(ValueError, match=r"'loss' with \{'arm': 'none'\} has two lines of seed 0"):
        seed_values(LINES, "loss", arm="none")


def test_distinct_values_are_sorted():
    assert distinct(LINES, "lr") == [0.1, 0.5]
    assert distinct(LINES, "lr", arm="batch") == [0.1]


def test_measurements_are_those_of_the_planned_runs_in_the_order_of_their_names(tmp_path):
    config = {"kind": "config", "schema": 1, "settings": {}}
    with Store(tmp_path, config) as store:
        for name in ("b", "a", "old"):
            store.append(
                [
                    {"kind": "run", "run": name},
                    *({"kind": "measurement", "run": name, "step": step} for step in (2, 1)),
                    {"kind": "final", "run": name},
                ]
            )
        store.append([{"kind": "run", "run": "cut"}, {"kind": "measurement", "run": "cut", "step": 1}])
    records = read(tmp_path)
    assert "cut" not in records.runs
    found = measurements(records, ["b", "a"])
    assert [(line["run"], line["step"]) for line in found] == [("a", 2), ("a", 1), ("b", 2), ("b", 1)]
