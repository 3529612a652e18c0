"""Runs of a survey on a cluster: the same records as here, written by the driver."""

import contextlib

import pytest

from batchnorm.errors import DataError, ModelError, StoreError, UsageError
from batchnorm.lab import cluster, dispatch, run
from batchnorm.lab.experiments import layer_norm
from batchnorm.records.verdicts import read_verdicts
from tests.lab.test_cluster import dask  # noqa: F401 (a fixture)
from tests.lab.test_survey import TWO, Told, runs, two_experiments  # noqa: F401 (a fixture)


def test_a_cluster_gives_the_same_records_verdicts_and_news(dask, tmp_path):  # noqa: F811
    told = Told()
    run(["all"], tmp_path / "here", quick=True, jobs=1)
    run(["all"], tmp_path / "there", quick=True, cluster=dask, watcher=told)
    for name in TWO:
        assert runs(tmp_path / "here", name) == runs(tmp_path / "there", name)
    assert read_verdicts(tmp_path / "here") == read_verdicts(tmp_path / "there")
    assert told[0] == ("begin", tmp_path / "there", [3, 12], 2)  # the worker has two threads
    assert told.started == {(name, run) for name in TWO for run in runs(tmp_path / "there", name)}


def test_an_interrupted_survey_on_a_cluster_goes_on_and_repeats_nothing(dask, tmp_path):  # noqa: F811
    with pytest.raises(KeyboardInterrupt):
        run(["layer-norm"], tmp_path, quick=True, cluster=dask, jobs=1, watcher=Told(stop_after=2))
    assert len(runs(tmp_path)) == 2
    told = Told()
    run(["layer-norm"], tmp_path, quick=True, cluster=dask, watcher=told)
    assert told[0] == ("begin", tmp_path, [10], 2)
    run(["layer-norm"], tmp_path / "again", quick=True, jobs=1)
    assert runs(tmp_path) == runs(tmp_path / "again")


def test_an_experiment_that_fails_there_does_not_stop_the_others(dask, tmp_path, monkeypatch):  # noqa: F811
    calls = []

    def fail(task):
        calls.append(task)
        raise ZeroDivisionError("out of luck")

    broken = layer_norm.EXPERIMENT.__class__(**{**vars(layer_norm.EXPERIMENT), "run": fail})
    monkeypatch.setattr(layer_norm, "EXPERIMENT", broken)
    told = Told()
    with pytest.raises(
        ModelError, match=r"^experiment 'layer-norm', run .*: ZeroDivisionError: out of luck "
    ):
        run(["all"], tmp_path, quick=True, jobs=1, cluster=dask, watcher=told)
    assert len(calls) < 12  # what was sent before the error came back, and no more
    assert [each[1] for each in told if each[0] == "failed"] == ["layer-norm"]
    assert set(read_verdicts(tmp_path)) == {10}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"torch": "1.0"}, r"has torch [2-9]\S+, the driver 1\.0;"),
        ({"batchnorm's sources": "old"}, r"has batchnorm's sources [0-9a-f]{16}, the driver old;"),
    ],
)
def test_a_worker_with_another_version_is_refused(dask, tmp_path, monkeypatch, changed, said):  # noqa: F811
    found = dispatch._versions
    told = iter([{**found(), **changed}])
    monkeypatch.setattr(dispatch, "_versions", lambda: next(told, None) or found())
    with pytest.raises(ModelError, match=rf"^the worker on \S+ {said}"):
        run(["layer-norm"], tmp_path, quick=True, jobs=1, cluster=dask)
    assert runs(tmp_path) == {}


def test_a_worker_with_other_data_is_refused_where_the_data_count(monkeypatch):
    name, task = "layer-norm", layer_norm.EXPERIMENT.plan(layer_norm.EXPERIMENT.scale(quick=True))[0]
    other = dispatch._Shared(dispatch._versions(), "digits", "0" * 64, None)
    assert dispatch._work((name, task), other)[1][0]["run"] == task.name  # it uses none
    using = layer_norm.EXPERIMENT.__class__(**{**vars(layer_norm.EXPERIMENT), "uses_data": True})
    monkeypatch.setattr(layer_norm, "EXPERIMENT", using)
    assert dispatch._work((name, task), other)[1].endswith(f", the driver {'0' * 64}")
    digest = dispatch.data_sets.cached("digits").digest
    same = dispatch._Shared(dispatch._versions(), "digits", digest, None)
    assert dispatch._work((name, task), same)[1][0]["run"] == task.name

    def missing(name):
        raise DataError(f"no {name} here")

    monkeypatch.setattr(dispatch.data_sets, "cached", missing)
    assert dispatch._work((name, task), same) == (name, "no digits here")


def test_a_worker_that_is_lost_ends_the_survey_with_one_line(tmp_path, monkeypatch):
    class Lost:
        def room(self):
            return 3

        def results(self, work, items, shared, most=None):
            items = iter(items)
            yield work(next(items), shared)
            with cluster._named_failures("--cluster 'dask://here:1'"):
                raise RuntimeError("killed")

    monkeypatch.setattr(cluster.Dask, "connected", lambda _: contextlib.nullcontext(Lost()))
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    with pytest.raises(
        ModelError, match=r"^--cluster 'dask://here:1': .*RuntimeError: killed; .*runs are kept$"
    ):
        run(["layer-norm"], tmp_path, quick=True, cluster="dask://here:1")
    assert len(runs(tmp_path)) == 1


def test_nobody_there_is_told_before_anything_is_written(tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    monkeypatch.setattr(cluster, "_TIMEOUT", 0.5)
    with pytest.raises(UsageError, match=r"--cluster 'dask://127.0.0.1:9' does not answer: "):
        run(["all"], tmp_path / "out", quick=True, cluster="dask://127.0.0.1:9")
    assert not (tmp_path / "out").exists()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="is not empty"):
        run(["all"], tmp_path, quick=True, cluster="dask://127.0.0.1:9")


@pytest.mark.slow
def test_ray_gives_the_same_records(tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    run(["layer-norm"], tmp_path / "here", quick=True, jobs=1)
    run(["layer-norm"], tmp_path / "there", quick=True, cluster="ray")
    assert runs(tmp_path / "here") == runs(tmp_path / "there")
