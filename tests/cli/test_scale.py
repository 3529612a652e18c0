"""`--devices`, `--cluster` and `--log` of `compare` as typed: bad values are one line and nothing is written."""

import pytest
from click.testing import CliRunner

from batchnorm.cli import main
from batchnorm.records import read
from tests.cli.test_hostile_input import MODEL, SMALL, assert_refused
from tests.lab import tiny


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.npz(tmp_path / "tiny.npz")

    def call(*arguments):
        fixed = ["compare", "--data", "tiny.npz", *MODEL, *SMALL, "--out", "out", "--device", "cpu"]
        return CliRunner().invoke(main, [*fixed, *arguments])

    return call


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--devices", "0"], "--devices '0' must be at least 1"),
        (["--devices", "many"], "--devices 'many' is not a whole number"),
        (["--devices", "5"], "--batch-size '8' is split over --devices 5 and must be at least 10"),
        (["--devices", "2", "--cluster", "ray"], "--devices 2 and --cluster 'ray' do not go together"),
        (["--cluster", "slurm"], "--cluster 'slurm' is unknown; choose dask://HOST:PORT or ray"),
        (["--cluster", "dask://host"], "needs a host and a port"),
        (["--log", "tensorbord"], "--log 'tensorbord' is unknown; choose from tensorboard, wandb, mlflow"),
        (["--log", "tensorboard,"], "has an empty entry"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_values_are_one_line(invoke, tmp_path, arguments, said):
    assert_refused(invoke(*arguments), said, folder=tmp_path)


def test_bad_values_are_refused_before_the_data_are_loaded(invoke, tmp_path, monkeypatch):
    monkeypatch.setattr("batchnorm.lab.data.load", lambda _: pytest.fail("loaded"))
    for arguments in (["--cluster", "slurm"], ["--log", "paper"], ["--jobs", "0"]):
        assert_refused(invoke(*arguments), arguments[1], folder=tmp_path)


def test_a_missing_extra_is_one_line_with_its_command(invoke, tmp_path, monkeypatch):
    monkeypatch.setattr("batchnorm.extras._installed", lambda _: False)
    for arguments, extra in (
        (["--cluster", "dask://host:8786"], "dask"),
        (["--cluster", "ray"], "ray"),
        (["--log", "mlflow"], "mlflow"),
    ):
        assert_refused(invoke(*arguments), f"pip install 'batchnorm[{extra}]'", folder=tmp_path)


def test_a_log_lies_beside_the_records_and_the_output_is_what_it_was(invoke, tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    found = invoke("--log", "tensorboard")
    assert (found.exit_code, found.stderr) == (0, "")
    assert found.stdout.splitlines()[-1] == "Report: out/report.html"
    logged = {path.name for path in (tmp_path / "out" / "tensorboard").iterdir()}
    assert logged == set(read(tmp_path / "out").runs)


def test_more_processes_than_cores_are_noted_above_the_runs(invoke, monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)
    monkeypatch.setattr("batchnorm.lab.pool.run_all", lambda *_: iter(()))
    monkeypatch.setattr("batchnorm.cli.compare.show", lambda *_, **__: None)
    found = invoke("--devices", "2")
    assert found.stdout.splitlines()[1] == (
        "Note: 1 run at a time on 2 devices are 2 processes on 1 usable core: they wait for each other; fewer --jobs "
        "or --devices take no longer"
    )
