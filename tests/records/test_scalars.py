import math

from batchnorm.records.scalars import parameters, scalars
from batchnorm.records.store import Run

IDENTITY = {"run": "a", "arm": "batch", "placement": None, "lr": 0.1, "seed": 3}
LINES = [
    {"kind": "run", **IDENTITY, "parameters": 7},
    {"kind": "activation", **IDENTITY, "epoch": 0, "site": "norm1", "where": "input", "mean": 0.5, "std": None},
    {"kind": "epoch", **IDENTITY, "epoch": 1, "train_loss": 2.0, "train_accuracy": 0.25, "val_loss": 1.5,
     "val_accuracy": 0.5, "seconds": 0.125},
    {"kind": "epoch", **IDENTITY, "epoch": 2, "train_loss": None, "val_loss": math.inf, "val_accuracy": True},
    {"kind": "activation", **IDENTITY, "epoch": 2, "site": "norm1", "where": "output", "p50": -1, "histogram": {}},
    {"kind": "prediction", **IDENTITY},
    {"kind": "final", **IDENTITY, "test_loss": 1.0, "test_accuracy": None, "diverged": False, "seconds_per_step": 0.5},
]  # fmt: skip


def test_every_finite_number_once_in_the_order_of_epochs():
    assert [tuple(scalar) for scalar in scalars(Run.of(LINES))] == [
        ("activations/norm1/input/mean", 0, 0.5),
        ("train/loss", 1, 2.0),
        ("train/accuracy", 1, 0.25),
        ("validation/loss", 1, 1.5),
        ("validation/accuracy", 1, 0.5),
        ("time/seconds", 1, 0.125),
        ("activations/norm1/output/p50", 2, -1.0),
        ("test/loss", 2, 1.0),
        ("time/seconds_per_step", 2, 0.5),
        ("diverged", 2, 0.0),
    ]


def test_a_run_that_says_little_gives_little():
    assert scalars(Run({"run": "a"})) == []
    assert scalars(Run({"run": "a"}, final={"diverged": True})) == [("diverged", 0, 1.0)]


def test_parameters_are_those_of_the_run_and_the_settings():
    found = parameters(Run.of(LINES), {"epochs": 2, "lr": "not this one", "placement": "nor this"})
    assert found == {
        "arm": "batch", "lr": 0.1, "seed": 3, "parameters": 7, "epochs": 2, "placement": "nor this",
    }  # fmt: skip


LAB = {"run": "batch,steps=9,seed=0", "arm": "batch", "seed": 0, "steps": 9}


def of_the_lab(*measurements):
    lines = [{"kind": "measurement", **LAB, **each} for each in measurements]
    last = {"kind": "final", **LAB, "measurements": len(lines), "seconds": 0.25}
    return Run.of([{"kind": "run", **LAB}, *lines, last])


def test_what_the_lab_measured_is_over_its_own_axis_and_the_settings_are_not_measured():
    run = of_the_lab(
        {"step": 5, "loss": 0.5, "low": None, "depth": 2, "counts": [1, 2], "holds": True},
        {"step": 0, "loss": 2, "low": math.nan, "depth": 2},
        {"epoch": 3, "loss": 4.0, "state": "re:calibrated=2"},
        {"error": 1.0, "step": 0.5},
        {"error": None},
        {"error": 3.0},
    )
    assert [tuple(scalar) for scalar in scalars(run)] == [
        ("depth-2/loss", 0, 2.0),
        ("error", 0, 1.0),
        ("step", 0, 0.5),
        ("time/seconds", 0, 0.25),
        ("error", 2, 3.0),
        ("re_calibrated_2/loss", 3, 4.0),
        ("depth-2/loss", 5, 0.5),
        ("depth-2/holds", 5, 1.0),
    ]


def test_parameters_of_a_run_of_the_lab_are_its_settings():
    assert parameters(of_the_lab({"error": 1.0}), {"claim": 10, "steps": 1}) == {
        "arm": "batch", "seed": 0, "steps": 9, "claim": 10,
    }  # fmt: skip
