"""Every experiment that trains on images takes those of every data set that the command line offers."""

import dataclasses
import importlib
import json
import socket
from urllib.error import URLError

import numpy as np
import pytest
import sklearn.datasets._openml as sklearn_openml
import torch

from batchnorm.lab import data as data_sets
from batchnorm.lab import openml
from batchnorm.lab.experiment import Task
from batchnorm.lab.experiments import NAMES, load
from batchnorm.lab.perform import measure
from batchnorm.lab.splits import Split, assemble
from batchnorm.lab.survey import run
from tests.lab.openml_server import Server

TRAINED = [name for name in NAMES if load(name).uses_data]


@pytest.fixture
def fresh():
    """No data set of another test is kept in memory, and none of this one's afterwards."""
    data_sets.cached.cache_clear()
    yield
    data_sets.cached.cache_clear()


@pytest.fixture
def few(monkeypatch, fresh):
    """A few random samples in the place of each data set, and the names that were asked for."""
    asked = []

    def load_few(name):
        asked.append(name)
        generator = torch.Generator().manual_seed(0)

        def split(count):
            x = torch.randn(count, *openml.SOURCES[name].shape, generator=generator)
            return Split(x, torch.arange(count) % 10)

        return assemble(name, tuple("0123456789"), (split(128), split(20), split(20)))

    monkeypatch.setattr(data_sets, "load", load_few)
    return asked


def kinds(name, data):
    """A task of each kind of network, as small as the experiment's own test makes it."""
    module = importlib.import_module(f"tests.lab.experiments.test_{name.replace('-', '_')}")
    smaller = getattr(module, "SMALLER", {}) | {"epochs": 1, "steps": 2}
    found = {}
    for task in load(name).plan(load(name).scale(quick=True, data=data)):
        small = {key: smaller.get(key, old) for key, old in task.settings}
        words = tuple((key, value if isinstance(value, str) else None) for key, value in small.items())
        found.setdefault((task.arm, words), Task.of(task.arm, task.seed, **small))
    return list(found.values())


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
@pytest.mark.parametrize("name", TRAINED)
def test_every_network_takes_a_step_on_every_data_set(few, name, data):
    for task in kinds(name, data):
        assert measure(load(name), task), task.name
    assert few == [data], "the data set was not looked at, or loaded more than once"


def test_an_experiment_runs_on_files_as_openml_gives_them(fresh, monkeypatch, tmp_path):
    source = dataclasses.replace(openml.SOURCES["mnist"], train=200, rows=240)
    pixels = np.random.default_rng(0).integers(0, 256, (240, 28 * 28)).astype(np.uint8)
    server = Server(pixels, np.arange(240) % 10, source.data_id)

    def unreachable(request):
        raise URLError(socket.gaierror(-2, "Name or service not known"))

    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(openml, "SOURCES", {"mnist": source})
    monkeypatch.setattr(sklearn_openml, "urlopen", server)
    digest = openml.load("mnist").digest
    monkeypatch.setattr(sklearn_openml, "urlopen", unreachable)  # from here on there are only the files
    folder = run(["recurrent-batch-norm"], tmp_path / "out", quick=True, data="mnist", jobs=1)
    lines = (folder / "recurrent-batch-norm/results.jsonl").read_text().splitlines()
    settings = json.loads(lines[0])["settings"]
    assert (settings["data"], settings["data_digest"]) == ("mnist", digest)
    assert {line["data"] for line in map(json.loads, lines[1:])} == {"mnist"}
    assert json.loads((folder / "verdicts.jsonl").read_text())["data"] == "mnist"
