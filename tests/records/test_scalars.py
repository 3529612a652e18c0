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
