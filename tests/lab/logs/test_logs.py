"""Each logger's folder, read back with the logger's own reader where it is installed."""

import json
import sys

import pytest

from batchnorm import extras
from batchnorm.errors import MissingExtraError, StoreError, UsageError
from batchnorm.lab import logs
from batchnorm.lab import run as run_lab
from batchnorm.lab.compare import compare, prepare
from batchnorm.lab.experiments import layer_norm
from batchnorm.lab.logs import Logbooks
from batchnorm.lab.plan import Task
from batchnorm.lab.training import train
from batchnorm.records import Run, read
from batchnorm.records.scalars import scalars
from batchnorm.records.verdicts import verdict_runs
from tests.lab import tiny
from tests.lab.test_compare import Log
from tests.lab.test_survey import Told

SETTINGS = {"epochs": 2, "data": "tiny", "norms": ["batch"], "set": {"momentum": 0.5}, "model_digest": None}


@pytest.fixture(scope="module")
def run():
    return Run.of(train(tiny.config(norms="batch"), Task("batch", "after", 0.1, 0), tiny.dataset(), [0]))


def tensorboard(folder):
    """Run -> (name, step) -> values, and run -> texts."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for path in sorted(folder.iterdir()):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
        values = {}
        for name in events.Tags()["scalars"]:
            for event in events.Scalars(name):
                values.setdefault((name, event.step), []).append(event.value)
        texts = [
            event.tensor_proto.string_val[0].decode() for event in events.Tensors("settings/text_summary")
        ]
        found[path.name] = values, texts
    return found


def expected(run):
    return {(name, step): [pytest.approx(value, rel=1e-6)] for name, step, value in scalars(run)}


def test_tensorboard_reads_every_number_once(run, tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    for _ in range(2):  # the second time is that of a comparison that goes on
        books = logs.opened(("tensorboard",), tmp_path, SETTINGS)
        books.catch_up([run])
        books.write(run)
    ((values, (text,)),) = tensorboard(tmp_path / "tensorboard").values()
    assert values == expected(run)
    settings = json.loads(text)
    assert settings["arm"] == "batch"
    assert settings["set"] == {"momentum": 0.5}


def test_what_tensorboard_had_half_of_is_done_again(run, tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    half = tmp_path / "tensorboard" / f".{run.name}.tmp"
    half.mkdir(parents=True)
    (half / "events.out.tfevents.1.old").write_bytes(b"half")
    logs.opened(("tensorboard",), tmp_path, SETTINGS).write(run)
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == [run.name]
    assert tensorboard(tmp_path / "tensorboard")[run.name][0] == expected(run)


def records_of(raw):
    """The records of a log in LevelDB's format behind a header of seven bytes, which is what W&B writes."""
    at, whole = 7, b""
    while at + 7 <= len(raw):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = int.from_bytes(raw[at + 4 : at + 6], "little"), raw[at + 6]
        whole += raw[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # full, last
            yield whole
            whole = b""


@pytest.mark.slow
def test_wandb_has_every_number_once_offline(run, tmp_path):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    from wandb.proto.wandb_internal_pb2 import Record

    for _ in range(2):
        logs.opened(("wandb",), tmp_path, SETTINGS).write(run)
    (folder,) = (tmp_path / "wandb").iterdir()
    assert folder.name.startswith("offline-run-")
    values, names = {}, set()
    for data in records_of(next(folder.glob("*.wandb")).read_bytes()):
        record = Record.FromString(data)
        if record.WhichOneof("record_type") == "run":
            names.add(record.run.display_name)
        for item in [record.history.item] if record.WhichOneof("record_type") == "history" else []:
            line = {entry.key or "/".join(entry.nested_key): json.loads(entry.value_json) for entry in item}
            for key, value in line.items():
                if not key.startswith("_"):
                    values.setdefault((key, line["_step"]), []).append(value)
    assert names == {run.name}
    assert values == expected(run)


@pytest.mark.slow
def test_mlflow_has_every_number_once(run, tmp_path, monkeypatch, capfd):
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    logs.opened(("mlflow",), tmp_path, SETTINGS)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("batchnorm").experiment_id
    client.create_run(experiment, run_name=run.name)  # as after a kill: begun, never finished
    for _ in range(2):
        logs.opened(("mlflow",), tmp_path, SETTINGS).write(run)
    (found,) = client.search_runs([experiment])
    values = {}
    for name in found.data.metrics:
        for metric in client.get_metric_history(found.info.run_id, name):
            values.setdefault((name, metric.step), []).append(metric.value)
    assert values == expected(run)
    assert (found.info.run_name, found.info.status) == (run.name, "FINISHED")
    assert found.data.params["set"] == '{"momentum": 0.5}'
    assert "model_digest" not in found.data.params
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow"]
    assert capfd.readouterr().err == ""


def test_a_comparison_logs_each_run_when_it_ends_and_earlier_ones_when_it_goes_on(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    data, out = tiny.npz(tmp_path / "tiny.npz"), tmp_path / "out"
    prepared = prepare(tiny.config(data=str(data), seeds=2), out)
    with pytest.raises(KeyboardInterrupt):
        compare(prepared, jobs=1, observer=Log(stop_after=1))
    assert not (out / "tensorboard").exists()
    with pytest.raises(KeyboardInterrupt):
        compare(prepared, jobs=1, observer=Log(stop_after=2), log="tensorboard")
    assert len(read(out).runs) == 3
    assert set(tensorboard(out / "tensorboard")) == set(list(read(out).runs)[:2])
    compare(prepared, jobs=1, log="tensorboard")
    runs = read(out).runs
    assert len(runs) == 4
    found = tensorboard(out / "tensorboard")
    assert {name: values for name, (values, _) in found.items()} == {n: expected(r) for n, r in runs.items()}


def test_a_survey_logs_each_run_and_verdict_in_the_claims_folder_and_nothing_twice(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    folder = tmp_path / "layer-norm"
    with pytest.raises(KeyboardInterrupt):
        run_lab(["layer-norm"], tmp_path, quick=True, jobs=1, watcher=Told(stop_after=1))
    with pytest.raises(KeyboardInterrupt):
        run_lab(["layer-norm"], tmp_path, quick=True, jobs=1, watcher=Told(stop_after=2), log="tensorboard")
    assert set(tensorboard(folder / "tensorboard")) == set(list(read(folder).runs)[:2])
    for _ in range(2):
        run_lab(["layer-norm"], tmp_path, quick=True, jobs=1, log="tensorboard")
    monkeypatch.setattr(layer_norm, "LEAST", 3.0)  # another criterion, another verdict
    run_lab(["layer-norm"], tmp_path, quick=True, jobs=1, log="tensorboard")
    told = {run.name: run for run in [*read(folder).runs.values(), *verdict_runs(tmp_path, 11)]}
    assert len(told) == 12 + 2
    found = tensorboard(folder / "tensorboard")
    assert {name: values for name, (values, _) in found.items()} == {n: expected(r) for n, r in told.items()}
    assert all(len(texts) == 1 for _, texts in found.values())
    settings = [json.loads(found[name][1][0]) for name in ("batch,seed=1", "verdict-2")]
    assert [each["claim"] for each in settings] == [11, 11]
    assert (settings[0]["arm"], settings[0]["seed"], settings[1]["verdict"]) == ("batch", 1, "partly")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_the_other_loggers_take_a_survey_too(name, tmp_path, monkeypatch):
    pytest.importorskip(name, reason=f"the extra {name} is not installed")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        run_lab(["before-and-after"], "out", quick=True, jobs=1, log=name)
    folder = tmp_path / "out" / "before-and-after" / name
    expect = {*read(folder.parent).runs, "verdict-1"}
    if name == "wandb":
        assert len(list(folder.glob("offline-run-*"))) == len(expect)
    else:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("batchnorm").experiment_id
        found = client.search_runs([experiment])
        assert sorted(run.info.run_name for run in found) == sorted(expect)
        assert all(run.data.params["claim"] == "10" for run in found)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_logger_that_fails_costs_no_run_of_the_lab(tmp_path, monkeypatch):
    class Broken:
        def write(self, run):
            raise RuntimeError("no room")

    monkeypatch.setattr(logs, "opened", lambda *_: Logbooks({"mlflow": Broken()}))
    with pytest.raises(StoreError, match=r"--log mlflow failed for batch,seed=0: RuntimeError: no room;"):
        run_lab(["layer-norm"], tmp_path, quick=True, jobs=1)
    assert list(read(tmp_path / "layer-norm").runs) == ["batch,seed=0"]


def test_a_logger_that_fails_is_named_and_the_runs_are_kept(tmp_path, monkeypatch):
    class Broken:
        def write(self, run):
            raise RuntimeError("no\nroom")

    monkeypatch.setattr(logs, "opened", lambda *_: Logbooks({"wandb": Broken()}))
    out = tmp_path / "out"
    prepared = prepare(tiny.config(data=str(tiny.npz(tmp_path / "tiny.npz"))), out)
    with pytest.raises(StoreError, match=r"--log wandb failed for none-lr0.1-seed0: RuntimeError: no room;"):
        compare(prepared, jobs=1)
    assert list(read(out).runs) == ["none-lr0.1-seed0"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("tensorbord", "--log 'tensorbord' is unknown; choose from tensorboard, wandb, mlflow"),
        ("wandb,", "--log 'wandb,' has an empty entry"),
        ("", "--log '' is empty"),
        ("mlflow,mlflow", "--log 'mlflow,mlflow' has 'mlflow' twice"),
    ],
)
def test_bad_values_are_quoted(value, said):
    with pytest.raises(UsageError) as caught:
        logs.chosen(value)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("name", logs.KNOWN)
def test_a_missing_extra_is_named_with_its_command(monkeypatch, name):
    there = extras.importlib.util.find_spec
    monkeypatch.setattr(
        extras.importlib.util, "find_spec", lambda asked: None if asked == name else there(asked)
    )
    with pytest.raises(MissingExtraError) as caught:
        logs.chosen(name)
    assert str(caught.value) == f"{name} not installed: pip install 'batchnorm[{name}]'"


def test_a_folder_of_the_same_name_is_not_taken_for_the_package(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(MissingExtraError, match="wandb not installed"):
        extras.require("wandb")


def test_reading_the_choice_loads_no_logger(monkeypatch):
    for name in logs.KNOWN:
        monkeypatch.setitem(sys.modules, f"batchnorm.lab.logs.{name}", None)
    assert logs.chosen(()) == ()
    logs.opened((), None, {}).catch_up([])
