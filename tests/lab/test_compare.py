import errno
import os

import pytest

from batchnorm.errors import DataError, ModelError, StoreError, UsageError
from batchnorm.lab.compare import compare, prepare
from batchnorm.records import store
from batchnorm.records.store import FILE_NAME, read
from tests.lab import tiny


@pytest.fixture
def config(tmp_path):
    path = tiny.npz(tmp_path / "tiny.npz")
    return lambda **values: tiny.config(**({"data": str(path), "seeds": 2, "epochs": 1} | values))


def results(folder):
    records = read(folder)
    return {
        name: (
            tiny.timeless([run.header, *run.epochs, *run.activations, run.final]),
            run.prediction,
        )
        for name, run in records.runs.items()
    }


class Log:
    wants_epochs = True

    def __init__(self, stop_after=None):
        self.stop_after, self.begun, self.ended, self.further, self.told, self.news = (
            stop_after,
            None,
            [],
            [],
            [],
            None,
        )

    def begin(self, folder, total, done, epochs, news):
        self.begun, self.news = (folder, total, done, epochs), news

    def finished(self, lines):
        self.ended.append(lines[-1]["run"])
        self.told += [line["kind"] for line in self.news.news()]
        if len(self.ended) == self.stop_after:
            raise KeyboardInterrupt

    def extended(self, tasks, missing):
        self.further.append((len(tasks), missing))


def test_a_folder_holds_everything_a_page_needs(config, tmp_path):
    out = tmp_path / "out"
    log = Log()
    assert compare(prepare(config(), out), jobs=1, observer=log, command="batchnorm compare") == out
    records = read(out)
    assert records.config["command"] == "batchnorm compare"
    assert records.data["train"] + records.data["validation"] == 60
    assert len(records.samples) == records.data["test"] == 15
    assert sorted(log.ended) == sorted(records.runs)
    assert log.begun == (out, 4, 0, 1)
    run = records.runs["batch-after-lr0.1-seed1"]
    assert run.prediction["index"] == [line["index"] for line in records.samples]
    assert log.told == ["started", "epoch"] * 4


def test_an_interrupted_comparison_goes_on_and_ends_with_the_same_results(config, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    compare(prepare(config(), whole), jobs=1)
    first = Log(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        compare(prepare(config(), parts), jobs=1, observer=first)
    assert list(read(parts).runs) == first.ended
    second = Log()
    compare(prepare(config(), parts), jobs=1, observer=second)
    assert second.begun[1:3] == (4, 1)
    assert set(first.ended).isdisjoint(second.ended)
    assert results(parts) == results(whole)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.77, 0.999])
def test_whatever_part_of_the_file_survived_the_results_are_the_same(config, tmp_path, share):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    compare(prepare(config(), whole), jobs=1)
    raw = (whole / FILE_NAME).read_bytes()
    cut.mkdir()
    (cut / FILE_NAME).write_bytes(raw[: int(len(raw) * share)])
    log = Log()
    compare(prepare(config(), cut), jobs=1, observer=log)
    assert log.ended
    assert results(cut) == results(whole)
    assert read(cut).samples == read(whole).samples
    assert read(cut).data == read(whole).data


def test_samples_of_which_only_a_part_was_written_are_written_again(config, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    compare(prepare(config(), whole), jobs=1)
    lines = (whole / FILE_NAME).read_bytes().splitlines(keepends=True)
    assert b'"sample"' in lines[3]
    cut.mkdir()
    (cut / FILE_NAME).write_bytes(b"".join(lines[:4]))
    compare(prepare(config(), cut), jobs=1)
    assert read(cut).samples == read(whole).samples


def test_a_finished_comparison_is_not_done_again(config, tmp_path):
    out = tmp_path / "out"
    compare(prepare(config(), out), jobs=1)
    before = (out / FILE_NAME).read_bytes()
    log = Log()
    compare(prepare(config(), out), jobs=1, observer=log)
    assert log.ended == []
    assert log.begun[1:3] == (4, 4)
    assert (out / FILE_NAME).read_bytes() == before


def test_the_grid_is_extended_once_where_the_best_rate_lies_at_its_edge(config, tmp_path, monkeypatch):
    monkeypatch.setitem(
        __import__("batchnorm.lab.config", fromlist=["x"]).DEFAULT_LRS, "sgd", (1e-4, 1e-3, 1e-2)
    )
    out = tmp_path / "out"
    values = {"lrs": None, "norms": "batch", "seeds": 1, "epochs": 3}
    log = Log()
    compare(prepare(config(**values), out), jobs=1, observer=log)
    assert log.further == [(1, 1)]
    assert {run.header["lr"] for run in read(out).runs.values()} == {1e-4, 1e-3, 1e-2, 0.1}
    again = Log()
    compare(prepare(config(**values), out), jobs=1, observer=again)
    assert (again.ended, again.further) == ([], [])


def test_rates_that_were_given_are_left_as_they_are(config, tmp_path):
    log = Log()
    compare(
        prepare(config(lrs="0.0001,0.001", norms="batch", seeds=1), tmp_path / "out"), jobs=1, observer=log
    )
    assert log.further == []
    assert len(log.ended) == 2


def test_a_folder_of_another_configuration_is_refused_and_stays_as_it_was(config, tmp_path):
    out = tmp_path / "out"
    compare(prepare(config(), out), jobs=1)
    before = (out / FILE_NAME).read_bytes()
    with pytest.raises(StoreError, match="results of another configuration: epochs is 1 there and 2 here"):
        compare(prepare(config(epochs=2), out), jobs=1)
    assert (out / FILE_NAME).read_bytes() == before


def test_data_that_changed_under_its_name_is_another_configuration(config, tmp_path):
    out = tmp_path / "out"
    settings = config()
    compare(prepare(settings, out), jobs=1)
    data = tiny.dataset(train=66)
    import numpy as np

    np.savez(
        tmp_path / "tiny.npz",
        x_train=data.train.x.numpy(),
        y_train=data.train.y,
        x_test=data.test.x.numpy(),
        y_test=data.test.y,
    )
    with pytest.raises(StoreError, match="another configuration: data_digest"):
        compare(prepare(settings, out), jobs=1)


def test_a_folder_with_other_things_in_it_is_refused(config, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match="is not empty and holds no results"):
        compare(prepare(config(), out), jobs=1)
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == ["thesis.tex"]


def test_a_full_disk_keeps_the_runs_that_were_finished(config, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write, left = os.write, [15_000]

    def full(fd, data):
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(fd, bytes(data)[: left[0]])
        left[0] -= count
        return count

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "write", full)
        with pytest.raises(StoreError, match=r"cannot write to '.*': No space left on device"):
            compare(prepare(config(seeds=5), out), jobs=1)
    kept = set(read(out).runs)
    assert 0 < len(kept) < 10
    log = Log()
    compare(prepare(config(seeds=5), out), jobs=1, observer=log)
    assert kept.isdisjoint(log.ended)
    assert len(read(out).runs) == 10


def test_what_cannot_work_is_refused_before_anything_is_written(config, tmp_path):
    out = tmp_path / "out"
    bad = [
        ({"data": str(tmp_path / "none.npz")}, DataError),
        ({"data": "digitz"}, DataError),
        ({"model": "lenett"}, ModelError),
        ({"model": str(tmp_path / "none.py") + ":build"}, ModelError),
        ({"norms": "none,instance"}, UsageError),
        ({"more": {"model.depth": "9"}}, UsageError),
    ]
    for values, error in bad:
        with pytest.raises(error) as caught:
            compare(prepare(config(**values), out), jobs=1)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="--jobs '0' must be at least 1"):
        compare(prepare(config(), out), jobs="0")
    assert not out.exists()


def test_a_model_that_fails_after_some_runs_leaves_those(config, tmp_path):
    path = tmp_path / "net.py"
    path.write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    made = 0\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.act, self.b = torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)\n"
        "    steps = 0\n"
        "    def forward(self, x):\n"
        "        if torch.is_grad_enabled() and self.training and isinstance(x, torch.Tensor):\n"
        "            Net.steps += 1\n"
        "            if Net.steps > 10:\n"
        "                raise RuntimeError('enough')\n"
        "        return self.b(self.act(self.a(x)))\n"
    )
    out = tmp_path / "out"
    with pytest.raises(ModelError, match=r"failed in training .*: RuntimeError: enough"):
        compare(prepare(config(model=f"{path}:Net"), out), jobs=1)
    assert len(read(out).runs) == 1


def test_without_out_the_folder_is_that_of_the_settings(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = compare(prepare(config()), jobs=1)
    assert folder.parent.name == "batchnorm-runs"
    assert folder.name.startswith("tiny-mlp-")
    assert prepare(config()).folder == folder
    assert prepare(config(seeds=3)).folder != folder
