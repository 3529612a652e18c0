import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from batchnorm.lab.compare import compare, prepare
from batchnorm.lab.config import CompareConfig
from batchnorm.lab.experiments import load
from batchnorm.records.store import read
from tests.lab.experiments import contract

NAME = "lenet"
EPOCHS = 3


@functools.cache
def data():
    """A tenth of the digits at 16x16, the smallest images that LeNet takes."""
    path = Path(tempfile.mkdtemp()) / "few.npz"
    bunch = load_digits()
    x = bunch.images.repeat(2, axis=1).repeat(2, axis=2)[:, None].astype(np.float32)
    np.savez(
        path, x_train=x[:100], y_train=bunch.target[:100], x_test=x[100:180], y_test=bunch.target[100:180]
    )
    return str(path)


def smaller():
    return {"epochs": EPOCHS, "data": data()}


def judged(none, batch):
    """The verdict where the accuracies of both after each epoch are these."""
    found = contract.miniature(NAME, **smaller())
    for arm, accuracies in (("none", none), ("batch", batch)):
        for epoch, accuracy in enumerate(accuracies, 1):
            found = contract.doctored(found, {"val_accuracy": accuracy}, arm=arm, epoch=epoch)
    return load(NAME).verdict(found)


def test_contract():
    contract.check(NAME, **smaller())


def test_fewer_epochs_in_every_seed_reproduce_it():
    found = judged([0.1, 0.2, 0.9], [0.9, 0.9, 0.9])
    assert found.verdict == "reproduced"
    assert (found.value, found.low, found.high) == (-2, -2, -2)
    assert not found.contradiction


def test_as_many_or_more_epochs_do_not():
    assert judged([0.1, 0.2, 0.9], [0.1, 0.2, 0.9]).verdict == "not reproduced"
    later = judged([0.9, 0.9, 0.9], [0.1, 0.9, 0.9])
    assert later.verdict == "not reproduced"
    assert "sooner without" in later.contradiction


def test_an_accuracy_that_is_never_reached_gives_no_difference():
    found = judged([0.1, 0.2, 0.9], [0.1, 0.8, 0.8])
    assert (found.verdict, found.value) == ("not reproduced", None)
    assert "0 of 6 seeds got there" in found.finding


@pytest.mark.parametrize("arm", ["none", "batch"])
def test_the_runs_are_those_of_a_comparison(arm, tmp_path):
    config = CompareConfig.of(
        data=data(), model="lenet", norms=arm, lrs="0.1", epochs=EPOCHS, seeds=1, device="cpu"
    )
    [run] = read(compare(prepare(config, tmp_path / "out"), jobs=1)).runs.values()
    lines = [
        line for line in contract.miniature(NAME, **smaller())
        if (line["arm"], line["lr"], line["seed"]) == (arm, 0.1, 0)
    ]  # fmt: skip
    for field in ("train_loss", "val_loss", "val_accuracy"):
        assert [line[field] for line in lines[:-1]] == [line[field] for line in run.epochs]
    assert lines[-1]["test_accuracy"] == run.final["test_accuracy"]
    assert lines[-1]["confusion"] == run.final["confusion"]
