"""What a tester found: one line, exit code 2, and nothing written or overwritten."""

import numpy as np
import pytest
from click.testing import CliRunner

from batchnorm.cli import main
from batchnorm.records import read
from tests.lab import tiny

MODEL = ["--model", "mlp", "--set", "model.hidden=5,4"]
SMALL = ["--lrs", "0.1", "--epochs", "1", "--seeds", "1", "--batch-size", "8", "--jobs", "1"]
LEAVES = """
import sys
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    def forward(self, x):
        sys.exit(0)
def batches():
    sys.exit(0)
    yield
def loaders():
    return batches(), batches()
"""


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.npz(tmp_path / "tiny.npz")
    (tmp_path / "leaves.py").write_text(LEAVES)

    def call(*arguments, model=MODEL, data="tiny.npz"):
        return CliRunner().invoke(
            main, ["compare", "--data", data, *model, *SMALL, "--out", "out", *arguments]
        )

    return call


def assert_refused(found, *said, folder):
    assert found.exit_code == 2
    assert found.stdout == ""
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1
    for text in said:
        assert text in found.stderr
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("model", "data"), [(["--model", "leaves.py:Net"], "tiny.npz"), (MODEL, "leaves.py:loaders")]
)
def test_code_that_ends_the_program_is_a_failure(invoke, tmp_path, model, data):
    assert_refused(invoke(model=model, data=data), "sys.exit(0)", folder=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seeds", "1000000000000"], "--seeds '1000000000000' must be at most 10000"),
        (["--epochs", "9" * 23], f"--epochs '{'9' * 23}' must be at most 1000000"),
        (["--batch-size", "9" * 23], "must be at most 2147483647"),
        (["--jobs", "100000"], "--jobs '100000' must be at most 4096"),
        (["--set", f"model.hidden={'9' * 21}"], "cannot be built"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_absurd_numbers_are_quoted(invoke, tmp_path, arguments, said):
    model = ["--model", "mlp"] if arguments[0] == "--set" else MODEL
    assert_refused(invoke(*arguments, model=model), said, folder=tmp_path)


def test_running_out_of_memory_is_one_line(invoke, tmp_path, monkeypatch):
    def starve(*_, **__):
        raise MemoryError

    monkeypatch.setattr("batchnorm.lab.compare.prepare", starve)
    assert_refused(invoke(), "out of memory", folder=tmp_path)


def test_a_validation_split_of_one_sample_is_refused_before_anything_is_written(invoke, tmp_path):
    arrays = dict(np.load(tmp_path / "tiny.npz"))
    one = {"x_val": arrays["x_test"][:1], "y_val": arrays["y_test"][:1]}
    np.savez(tmp_path / "one.npz", **arrays, **one)
    assert_refused(invoke(data="one.npz"), "'one.npz' has 1 validation sample", "at least 2", folder=tmp_path)


def test_a_mistyped_key_of_an_archive_is_named(invoke, tmp_path):
    arrays = dict(np.load(tmp_path / "tiny.npz"))
    np.savez(tmp_path / "typo.npz", **arrays, x_valid=arrays["x_test"], y_valid=arrays["y_test"])
    assert_refused(invoke(data="typo.npz"), "x_valid, y_valid", "x_val, y_val", folder=tmp_path)


@pytest.mark.parametrize("content", ["hello\n", '{"a":1}', "[]\n", '{"kind":"epoch"'])
def test_a_file_of_another_program_is_not_taken_for_a_torn_one(invoke, tmp_path, content):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "results.jsonl").write_text(content)
    found = invoke()
    assert found.exit_code == 2
    assert "config" in found.stderr
    assert (folder / "results.jsonl").read_text() == content


@pytest.mark.parametrize("kept", [1, 2, 5])
def test_the_report_of_a_folder_in_which_no_run_has_finished(invoke, tmp_path, kept):
    assert invoke().exit_code == 0
    path = tmp_path / "out" / "results.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:kept]))
    assert not read(tmp_path / "out").runs
    found = CliRunner().invoke(main, ["report", str(tmp_path / "out")])
    assert found.exit_code == 0
    assert "No run has finished yet" in found.stdout
    assert found.stdout.splitlines()[-1].startswith("Report: ")
