"""Long runs go on where they were cut off, to the same bits."""

import os
import subprocess
import sys
import time

import pytest
import torch

from batchnorm.lab.checkpoints import Checkpoints
from batchnorm.lab.compare import compare, prepare
from batchnorm.lab.plan import Task
from batchnorm.lab.training import train
from batchnorm.records import read
from tests.lab import tiny
from tests.lab.test_compare import Log, results

MODEL = """
import random
import numpy as np
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act, self.drop = torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Dropout(0.3)
        self.last = torch.nn.Linear(8, 3)
        self.calls = 0
    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            self.calls += 1
            x = x * (1 + 0.1 * random.random() + 0.1 * float(np.random.rand()) + 0.01 * self.calls)
        return self.last(self.drop(self.act(self.first(x))))
"""


class Cut:
    """Stops a run after an epoch, before its checkpoint, as a kill would."""

    def __init__(self, at=None):
        self.at, self.epochs = at, []

    def __call__(self, line):
        self.epochs.append(line["epoch"])
        if line["epoch"] == self.at:
            raise KeyboardInterrupt


@pytest.fixture
def checkpoints(tmp_path):
    group = Checkpoints.beside(tmp_path / "out", {"a": 1}, after=0.0, apart=0.0)
    with group.kept(()):
        yield group


def interrupted(config, task, checkpoints, at=3):
    cut = Cut(at)
    with pytest.raises(KeyboardInterrupt):
        train(config, task, tiny.dataset(), [0, 3], cut, checkpoints)
    assert cut.epochs == list(range(1, at + 1))


@pytest.mark.parametrize(
    ("arm", "values"),
    [
        ("none", {"dropout": 0.4, "more": {"momentum": 0.9}}),
        ("batch", {"optimizer": "adam", "dropout": 0.2}),
        ("renorm", {"optimizer": "adamw"}),
        ("ghost", {"precision": "bf16-mixed"}),
        ("frozen", {}),
        ("own", {}),
    ],
)
def test_the_numbers_are_those_of_a_run_that_was_not_cut_off(tmp_path, checkpoints, arm, values):
    task = Task("none", None, 0.1, 3) if arm in ("none", "own") else Task(arm, "after", 0.1, 3)
    if arm == "own":
        (tmp_path / "net.py").write_text(MODEL)
        values = {"model": f"{tmp_path / 'net.py'}:Net"}
    config = tiny.config(epochs=5, norms=task.arm, **values)
    whole = train(config, task, tiny.dataset(), [0, 3])
    interrupted(config, task, checkpoints)
    told = Cut()
    lines = train(config, task, tiny.dataset(), [0, 3], told, checkpoints)
    assert told.epochs == [3, 4, 5]
    assert tiny.timeless(lines) == tiny.timeless(whole)
    seconds = [line["seconds"] for line in lines if line["kind"] == "epoch"]
    assert seconds == sorted(seconds)
    assert checkpoints.notes() == []


def test_a_checkpoint_after_the_last_epoch_is_enough_for_the_test(checkpoints):
    config, task = tiny.config(epochs=2, norms="batch"), Task("batch", "after", 0.1, 0)
    whole = train(config, task, tiny.dataset(), [0], None, checkpoints)
    told = Cut()
    assert tiny.timeless(train(config, task, tiny.dataset(), [0], told, checkpoints)) == tiny.timeless(whole)
    assert told.epochs == []


@pytest.mark.parametrize("damage", ["bytes", "another network", "another optimizer"])
def test_a_checkpoint_that_is_damaged_or_does_not_fit_starts_the_run_again(checkpoints, damage):
    config, task = tiny.config(epochs=5, norms="batch"), Task("batch", "after", 0.1, 0)
    whole = train(config, task, tiny.dataset(), [0, 3])
    if damage == "another network":
        interrupted(tiny.config({"model.hidden": "7,4"}, epochs=5, norms="batch"), task, checkpoints)
    elif damage == "another optimizer":
        interrupted(tiny.config(epochs=5, norms="batch"), task, checkpoints)
        checkpoint = checkpoints.of_run(task.name)
        state = checkpoint.load()
        state["optimizer"] = {"state": {}, "param_groups": []}
        checkpoint.save(state)
    else:
        interrupted(config, task, checkpoints)
        path = checkpoints.of_run(task.name).path
        path.write_bytes(path.read_bytes()[:-9])
    told = Cut()
    lines = train(config, task, tiny.dataset(), [0, 3], told, checkpoints)
    assert told.epochs == [1, 2, 3, 4, 5]
    assert tiny.timeless(lines) == tiny.timeless(whole)
    (note,) = checkpoints.notes()
    assert note.startswith(f"The checkpoint of {task.name} ")


def test_a_short_run_leaves_nothing_on_disk(tmp_path):
    group = Checkpoints.beside(tmp_path, {})
    with group.kept(()):
        train(tiny.config(), Task("none", None, 0.1, 0), tiny.dataset(), [0], None, group)
        assert list(group.folder.iterdir()) == []


SCRIPT = """
import sys
from batchnorm.lab.compare import compare, prepare
from tests.lab import tiny
if __name__ == "__main__":
    values = dict(data=sys.argv[1], epochs=400, dropout=0.2)
    compare(prepare(tiny.config(**values), sys.argv[2]), jobs=int(sys.argv[3]), checkpoint_after=0.0)
"""


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_in_the_middle_of_a_run_a_comparison_goes_on_from_there(tmp_path, monkeypatch, jobs):
    data, out = tiny.npz(tmp_path / "tiny.npz"), tmp_path / "out"
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    process = subprocess.Popen([sys.executable, str(tmp_path / "script.py"), str(data), str(out), str(jobs)])
    folder, deadline = out / "checkpoints", time.monotonic() + 120
    while not list(folder.glob("*.ckpt")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert list(folder.glob("*.ckpt"))
    log = Epochs()
    prepared = prepare(tiny.config(data=str(data), epochs=400, dropout=0.2), out)
    compare(prepared, jobs=1, observer=log)
    firsts = [min(told) for told in log.epochs.values()]
    assert any(first > 1 for first in firsts)
    assert not folder.exists()
    prepared = prepare(tiny.config(data=str(data), epochs=400, dropout=0.2), tmp_path / "whole")
    assert results(out) == results(compare(prepared, jobs=1))


class Epochs(Log):
    """The epochs of each run, and the notes."""

    def __init__(self):
        super().__init__()
        self.epochs, self.notes = {}, []

    def finished(self, lines):
        for line in self.news.news():
            if line["kind"] == "epoch":
                self.epochs.setdefault(line["run"], []).append(line["epoch"])
        super().finished(lines)

    def noted(self, text):
        self.notes.append(text)


def test_a_comparison_tells_of_a_checkpoint_that_it_could_not_use(tmp_path):
    data, out = tiny.npz(tmp_path / "tiny.npz"), tmp_path / "out"
    config = tiny.config(data=str(data))
    prepared = prepare(config, out)
    compare(prepared, jobs=1)
    whole = results(out)
    (out / "results.jsonl").write_bytes(
        b"".join(line for line in (out / "results.jsonl").open("rb") if b'"batch-after' not in line)
    )
    group = Checkpoints.beside(out, prepared.settings, 0.0)
    with group.kept(()):
        checkpoint = group.of_run("batch-after-lr0.1-seed0")
        checkpoint.path.write_bytes(b"batch-after-lr0.1-seed0\nnonsense\n")
        group.of_run("none-lr0.1-seed0").save({"a": torch.zeros(1)})  # of a run that is in the store
    log = Epochs()
    compare(prepared, jobs=1, observer=log)
    assert log.notes == ["The checkpoint of batch-after-lr0.1-seed0 is damaged; the run starts again"]
    assert results(out) == whole
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == ["results.jsonl"]
    assert len(read(out).runs) == 2
