"""`batchnorm recalibrate`: from weights in a file to weights with measured statistics in another."""

import numpy as np
import pytest
import torch

from batchnorm.cli import main

MODEL = """
from torch import nn

def build(in_channels, num_classes):
    return nn.Sequential(
        nn.Linear(in_channels, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, num_classes), nn.BatchNorm1d(num_classes)
    )

def bare():
    return nn.Linear(6, 2)

ready = build(6, 2)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 2, (90, 6)).astype("float32"), np.arange(90) % 2
    np.savez("rows.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    return tmp_path


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["recalibrate", *arguments])
    printed = capsys.readouterr()
    return stopped.value.code, printed.out, printed.err


def test_weights_in_and_weights_out(folder, capsys):
    from batchnorm.lab.data import load

    torch.manual_seed(0)
    namespace = {}
    exec(MODEL, namespace)
    trained = namespace["build"](6, 2)
    torch.save({"state_dict": trained.state_dict(), "epoch": 3}, "trained.pt")
    given = ("--weights", "trained.pt", "--data", "rows.npz", "--batch-size", "7", "--out", "new.pt")
    code, out, err = run(capsys, "model.py:build", *given)
    assert (code, err) == (0, "")
    x = load("rows.npz").train.x
    assert out == f"2 batch norms measured on {len(x)} samples of rows.npz: new.pt\n"
    state = torch.load("new.pt", weights_only=True)
    seen = trained[0](x)
    torch.testing.assert_close(state["1.running_mean"], seen.mean(0))
    torch.testing.assert_close(state["1.running_var"], seen.var(0))
    assert all(
        torch.equal(state[key], value) for key, value in trained.state_dict().items() if "weight" in key
    )
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [
        "model.py",
        "new.pt",
        "rows.npz",
        "trained.pt",
    ]


def test_a_model_as_it_is_and_a_limit(folder, capsys):
    given = (
        "--data",
        "rows.npz",
        "--batch-size",
        "10",
        "--batches",
        "2",
        "--upstream",
        "batch",
        "--out",
        "new.pt",
    )
    code, out, _ = run(capsys, "model.py:ready", *given)
    assert code == 0
    assert "on 20 samples" in out
    assert torch.load("new.pt", weights_only=True)["1.num_batches_tracked"] == 2


def test_what_was_not_measured_is_a_warning(folder, capsys):
    code, _, err = run(capsys, "model.py:bare", "--data", "rows.npz", "--out", "new.pt")
    assert code == 0
    assert err == "warning: recalibrate: the model has no batch norm with running statistics\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model.py:none",), "has no 'none'"),
        (("model.py:build", "--weights", "gone.pt"), "--weights 'gone.pt': No such file or directory"),
        (("model.py:build", "--weights", "model.py"), "--weights 'model.py' is no file of weights"),
        (("model.py:build", "--weights", "other.pt"), "--weights 'other.pt' do not fit 'model.py:build'"),
        (("model.py:build", "--weights", "list.pt"), "expected a state_dict, got a list"),
        (("model.py:build", "--batch-size", "0"), "--batch-size '0' must be at least 1"),
        (("model.py:build", "--batches", "x"), "--batches 'x' is not a whole number"),
        (("model.py:build", "--upstream", "eval"), "expected population or batch, got 'eval'"),
        (("model.py:build", "--data", "gone.npz"), "gone.npz"),
        (("model.py:build", "--out", "rows.npz"), "--out 'rows.npz' exists; choose another name"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(folder, capsys, arguments, message):
    torch.save({"weight": torch.zeros(3)}, "other.pt")
    torch.save([torch.zeros(3)], "list.pt")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    defaults = {"--data": "rows.npz", "--out": "new.pt"}
    rest = [word for key, value in defaults.items() if key not in arguments for word in (key, value)]
    code, out, err = run(capsys, *arguments, *rest)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
