import random

import numpy as np
import pytest
import torch

from batchnorm.errors import DataError, ModelError
from batchnorm.lab import perform as performing
from batchnorm.lab.experiment import Task
from batchnorm.lab.experiments import layer_norm, load
from batchnorm.lab.perform import measure, perform


def experiment(run):
    return layer_norm.EXPERIMENT.__class__(**{**vars(layer_norm.EXPERIMENT), "run": run})


def draws():
    return [torch.rand(()).item(), np.random.rand(), random.random()]


def test_a_run_has_its_own_random_state_and_leaves_that_of_its_process():
    def run(task):
        torch.set_default_dtype(torch.float64)
        return [{"draws": draws(), "threads": torch.get_num_threads()}]

    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = draws()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    found = [measure(experiment(run), Task.of("batch", seed))[0] for seed in (5, 6, 5)]
    assert found[0] == found[2] != found[1]
    assert found[0]["threads"] == 1
    assert torch.get_default_dtype() == torch.float32
    assert draws() == expected


def test_the_lines_of_a_run_carry_its_identity():
    task = load("layer-norm").plan(load("layer-norm").scale(quick=True))[0]
    told = []
    lines = perform("layer-norm", task, told.append)
    assert [line["kind"] for line in lines] == ["run", "measurement", "final"]
    for line in lines:
        assert {"run": task.name, "arm": task.arm, "seed": 0}.items() <= line.items()
    assert lines[-1]["measurements"] == 1
    assert lines[-1]["seconds"] > 0
    assert told == [{"kind": "started", "claim": "layer-norm", "run": task.name}]


def test_numpys_scalars_become_pythons():
    record = {"a": np.float32(0.5), "b": np.int64(3), "c": [np.bool_(True)]}
    assert measure(experiment(lambda task: [record]), Task.of("batch", 0)) == [
        {"a": 0.5, "b": 3, "c": [True]}
    ]


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        ({"lr": 0.2}, ValueError, "a record has the field 'lr', which the task gives"),
        ({"kind": "x"}, ValueError, "a record has the field 'kind'"),
        ({"x": torch.ones(2)}, TypeError, "a record holds a Tensor; expected text, numbers and lists"),
    ],
)
def test_a_record_that_cannot_be_kept_is_refused(record, error, message):
    with pytest.raises(error, match=message):
        measure(experiment(lambda task: [record]), Task.of("batch", 0, lr=0.1))


@pytest.mark.parametrize("problem", [ZeroDivisionError("out of luck"), DataError("out of luck")])
def test_what_a_run_raises_is_told_with_its_name(monkeypatch, problem):
    def run(task):
        raise problem

    monkeypatch.setattr(performing, "load", lambda name: experiment(run))
    with pytest.raises(ModelError, match=r"^experiment 'layer-norm', run batch,seed=0: .*out of luck"):
        perform("layer-norm", Task.of("batch", 0))
