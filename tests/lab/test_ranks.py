"""Two real processes over gloo, started once for what all the fast tests look at."""

import math
import os
import shutil

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from batchnorm.errors import DataError, ModelError, UsageError
from batchnorm.lab import pool, ranks, training
from batchnorm.lab.checkpoints import Checkpoints
from batchnorm.lab.compare import compare, prepare
from batchnorm.lab.networks import build_network
from batchnorm.lab.plan import Task
from batchnorm.lab.training import train
from tests.lab import tiny
from tests.lab.test_compare import Log, results

NONE, BATCH, SYNC = (
    Task(arm, None if arm == "none" else "after", 0.1, 2) for arm in ("none", "batch", "sync")
)
STILL = Task("batch", "after", 1e-12, 2)
TRAIN = 43  # in batches of 9: the last has 7, and no share is as large as its neighbour


def config(task, **values):
    return tiny.config(**({"norms": task.arm, "epochs": 3, "batch_size": 9, "devices": 2} | values))


class Keep:
    """Copies the checkpoint that there is when an epoch ends, which is that of the epoch before."""

    def __init__(self, checkpoints, task, to):
        self.path, self.to = checkpoints.of_run(task.name).path, to

    def __call__(self, line):
        if line["epoch"] == 3:
            shutil.copy(self.path, self.to)


def all_runs(fabric, among, folder):
    """Everything that a test below asks for: the lines of each run, and what each rank trained on."""
    data = tiny.dataset(train=TRAIN)
    checkpoints = Checkpoints.beside(folder, {}, 0.0, 0.0)

    def lines(task, keep=None, state=None, group=None, **values):
        settings = config(task, **values)
        return training._train(
            fabric, among, settings, task, data, [0, 3], keep or (lambda _: None), group, state
        )

    found = {task.arm: lines(task) for task in (NONE, SYNC, BATCH)}
    found["still"] = lines(STILL, epochs=1)
    found["dropout"] = lines(BATCH, dropout=0.3)
    kept = folder / "kept"
    found["saved"] = lines(BATCH, Keep(checkpoints, BATCH, kept), group=checkpoints, dropout=0.3)
    among.gathered(None)  # the copy is there
    if among.rank == 0:
        shutil.copy(kept, checkpoints.of_run(BATCH.name).path)
    among.gathered(None)
    state = checkpoints.of_run(BATCH.name).load()
    found["continued from"] = state["epoch"]
    among.gathered(None)
    found["continued"] = lines(BATCH, state=state, group=checkpoints, dropout=0.3)
    found["shares"] = among.gathered([among.share(torch.arange(n)).tolist() for n in (9, 4)])
    found["evaluated"] = among.gathered([len(part) for part in among.parts(torch.arange(11), 2)])
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with Checkpoints.beside(folder, {}).kept(()):
        before = dict(os.environ)
        runs = ranks.launch(all_runs, 2, "cpu", "32-true", "the test", folder)
        assert dict(os.environ) == before
        return runs


def epochs(lines):
    return [line for line in lines if line["kind"] == "epoch"]


@pytest.mark.parametrize("task", [NONE, SYNC], ids=lambda task: task.arm)
def test_where_nothing_depends_on_the_share_two_ranks_compute_what_one_does(found, task):
    one, two = train(config(task, devices=1), task, tiny.dataset(train=TRAIN), [0, 3]), found[task.arm]
    assert [line["kind"] for line in one] == [line["kind"] for line in two]
    for here, there in zip(epochs(one), epochs(two), strict=True):
        for name in ("train_loss", "val_loss", "train_accuracy", "val_accuracy"):
            assert there[name] == pytest.approx(here[name], rel=1e-5)
        assert there["step"] == here["step"]
    assert two[0]["initial_weights"] == one[0]["initial_weights"]
    assert two[-1]["confusion"] == one[-1]["confusion"]
    assert two[-1]["test_loss"] == pytest.approx(one[-1]["test_loss"], rel=1e-5)


def test_batch_norm_normalises_each_rank_s_share(found):
    """The first epoch's loss with weights that do not move, from shares computed one after another in float64."""
    words = np.random.SeedSequence(STILL.seed).generate_state(3, np.uint64)
    weights, order = int(words[0]) >> 1, int(words[1]) >> 1
    data = tiny.dataset(train=TRAIN)
    torch.manual_seed(weights)
    module = build_network(config(STILL, devices=1), "batch", "after", data).module.double().train()
    chosen = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(order))
    total = 0.0
    for batch in chosen.split(9):
        half = math.ceil(len(batch) / 2)
        for share in (batch[:half], batch[half:]):
            total += cross_entropy(
                module(data.train.x[share].double()), data.train.y[share], reduction="sum"
            ).item()
    assert epochs(found["still"])[0]["train_loss"] == pytest.approx(total / TRAIN, rel=1e-6)
    whole = train(config(STILL, devices=1, epochs=1), STILL, data, [])
    assert epochs(whole)[0]["train_loss"] != pytest.approx(total / TRAIN, rel=1e-3)


def test_a_run_of_two_ranks_that_was_cut_off_goes_on_to_the_same_numbers(found):
    assert found["continued from"] == 2
    assert tiny.timeless(found["saved"]) == tiny.timeless(found["dropout"])
    assert tiny.timeless(found["continued"]) == tiny.timeless(found["dropout"])


def test_shares_are_whole_and_equally_many_parts_are_evaluated(found):
    assert found["shares"] == [[[0, 1, 2, 3, 4], [0, 1]], [[5, 6, 7, 8], [2, 3]]]
    assert found["evaluated"] == [[2, 2, 2], [2, 2, 1]]


def test_a_last_batch_of_fewer_than_two_samples_a_rank_is_left_out():
    assert training._batches(11, 8, least=4) == [(0, 8)]
    assert training._batches(12, 8, least=4) == [(0, 8), (8, 12)]


RANK = """
import os, torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act, self.last = torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    def forward(self, x):
        if self.training and torch.is_grad_enabled() and os.environ.get("LOCAL_RANK") == "1":
            ACTION
        return self.last(self.act(self.first(x)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "said"),
    [
        (
            "os.kill(os.getpid(), 9)",
            r"on 2 devices \(none-lr0.1-seed2\): rank 1 of 2 died \(signal SIGKILL\), perhaps",
        ),
        (
            "raise ValueError('out of luck')",
            r"failed in training \(none-lr0.1-seed2\): ValueError: out of luck$",
        ),
    ],
)
def test_a_rank_that_dies_or_fails_ends_the_run_with_its_reason(tmp_path, action, said):
    (tmp_path / "net.py").write_text(RANK.replace("ACTION", action))
    with pytest.raises(ModelError, match=said):
        train(config(NONE, model=f"{tmp_path / 'net.py'}:Net"), NONE, tiny.dataset(train=TRAIN), [])


class Told(Log):
    notes = ()

    def noted(self, text):
        self.notes = (*self.notes, text)


@pytest.mark.slow
def test_a_comparison_on_two_devices_side_by_side_and_one_after_another(tmp_path):
    settings = config(NONE, data=str(tiny.npz(tmp_path / "tiny.npz")), seeds=2)
    log = Told()
    compare(prepare(settings, tmp_path / "two"), jobs=2, observer=log)
    compare(prepare(settings, tmp_path / "one"), jobs=1)
    assert results(tmp_path / "two") == results(tmp_path / "one")
    assert len(log.ended) == 2
    assert "epoch" in log.told


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"devices": "0"}, "--devices '0' must be at least 1"),
        ({"devices": "two"}, "--devices 'two' is not a whole number of at least 1"),
        ({"devices": "65"}, "--devices '65' must be at most 64"),
        (
            {"devices": "8", "batch_size": "15"},
            "--batch-size '15' is split over --devices 8 and must be at least 16",
        ),
    ],
)
def test_bad_values_are_quoted(values, said):
    with pytest.raises(UsageError) as caught:
        tiny.config(**values)
    assert said in str(caught.value)


def test_devices_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="--devices 2: this machine has 1 cuda device"):
        tiny.config(device="cuda", devices=2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(UsageError, match="--devices 2: there is one mps device"):
        tiny.config(device="mps", devices=2)


def test_data_with_too_few_samples_for_the_devices_is_refused(tmp_path):
    data = str(tiny.npz(tmp_path / "tiny.npz"))
    with pytest.raises(DataError, match="has 6 validation samples; --devices 16 needs 16"):
        prepare(tiny.config(data=data, devices=16, batch_size=32), tmp_path / "out")


def test_the_folder_of_one_device_is_that_of_earlier_versions():
    one, two = (tiny.config(devices=n).settings("a", None) for n in (1, 2))
    assert "devices" not in one
    assert two == one | {"devices": 2}


def test_more_processes_than_cores_are_told(monkeypatch):
    monkeypatch.setattr(pool.joblib, "cpu_count", lambda: 8)
    assert [pool.default_jobs("cpu", n) for n in (1, 2, 3, 16)] == [8, 4, 2, 1]
    assert pool.default_jobs("cuda", 2) == 1
    assert pool.crowding(4, "cpu", 2) is None
    assert pool.crowding(9, "cpu", 1) is None
    assert pool.crowding(3, "cpu", 3).startswith(
        "3 runs at a time on 3 devices are 9 processes on 8 usable cores"
    )
    assert pool.crowding(1, "cpu", 9).startswith(
        "1 run at a time on 9 devices are 9 processes on 8 usable cores"
    )


def test_an_error_of_a_rank_leaves_no_process_behind():
    import multiprocessing

    assert not [child for child in multiprocessing.active_children() if "SpawnProcess" in child.name]
