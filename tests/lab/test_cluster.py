import os
import threading

import pytest

from batchnorm import extras
from batchnorm.errors import MissingExtraError, ModelError, UsageError
from batchnorm.lab import cluster, pool
from batchnorm.lab.checkpoints import Checkpoints
from batchnorm.lab.compare import compare, prepare
from batchnorm.lab.plan import plan
from tests.lab import tiny
from tests.lab.test_compare import Log, results
from tests.lab.test_pool import by_name, model


@pytest.fixture(scope="module")
def dask():
    """A scheduler and a worker of two threads, in this process, behind a socket."""
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, protocol="tcp://"
    ) as local:
        yield local.scheduler_address.replace("tcp://", "dask://")


def test_a_cluster_gives_the_same_numbers_as_this_process(dask, tmp_path):
    config = tiny.config(seeds=3, dropout=0.2)
    tasks = plan(config, ("after",))
    here = by_name(pool.run_all(config, tasks, tiny.dataset(), [0, 1], jobs=1))
    with cluster.named(dask).connected() as connection:
        there = by_name(cluster.run_on(connection, config, tasks, tiny.dataset(), [0, 1]))
        one = by_name(cluster.run_on(connection, config, tasks[:3], tiny.dataset(), [0, 1], jobs=1))
        assert list(cluster.run_on(connection, config, [], tiny.dataset(), [0, 1])) == []
    assert there == here
    assert one == {task.name: here[task.name] for task in tasks[:3]}


def test_a_comparison_on_a_cluster_is_written_by_the_driver_and_can_be_interrupted(dask, tmp_path):
    config = tiny.config(data=str(tiny.npz(tmp_path / "tiny.npz")), seeds=2)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        compare(prepare(config, out), cluster=dask, observer=Log(stop_after=1))
    log = Log()
    compare(prepare(config, out), cluster=dask, observer=log)
    assert len(log.ended) == 3
    assert {"started", "epoch"} == set(log.told)  # its worker sees this machine's files
    assert results(out) == results(compare(prepare(config, tmp_path / "here"), jobs=1))


def test_a_run_that_fails_there_is_told_as_here(dask, tmp_path):
    config = tiny.config(model=model(tmp_path, "raise ValueError('out of luck')"))
    with (
        cluster.named(dask).connected() as connection,
        pytest.raises(ModelError, match=r"failed in training \(.*\): ValueError: out of luck$"),
    ):
        list(cluster.run_on(connection, config, plan(config, ("after",)), tiny.dataset(), []))


def test_a_worker_with_another_version_is_refused(dask, monkeypatch):
    config = tiny.config()
    found = cluster._versions
    told = iter([{**found("mlp"), "torch": "1.0"}])
    monkeypatch.setattr(cluster, "_versions", lambda name: next(told, None) or found(name))
    with (
        cluster.named(dask).connected() as connection,
        pytest.raises(ModelError, match=r"the worker on \S+ has torch [2-9]\S+, the driver 1\.0$"),
    ):
        list(cluster.run_on(connection, config, plan(config, ("after",)), tiny.dataset(), []))


def where(item, shared):
    return item, os.getpid(), threading.current_thread() is threading.main_thread()


def test_one_worker_is_enough_and_is_not_the_driver():
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0", protocol="tcp://"
    ) as local:
        address = local.scheduler_address.replace("tcp://", "dask://")
        with cluster.named(address).connected() as connection:
            found = list(connection.results(where, [1, 2, 3], {"shared": 1}))
    assert sorted(item for item, _, _ in found) == [1, 2, 3]
    assert {main for _, _, main in found} == {False}


def explode(item, shared):
    raise OSError(f"{item} is gone")


def test_what_nobody_expected_is_one_line_too(dask):
    with (
        cluster.named(dask).connected() as connection,
        pytest.raises(ModelError, match=r"--cluster 'dask://.*OSError: 1 is gone; .*finished runs are kept$"),
    ):
        list(connection.results(explode, [1], None))


def test_a_worker_of_another_machine_that_does_not_see_the_folder_writes_no_checkpoint(tmp_path):
    config = tiny.config()
    elsewhere = Checkpoints.beside(tmp_path / "not there", {}, 0.0, 0.0)
    shared = cluster._Shared(
        config, pool.Packed.of(tiny.dataset()), [0], None, elsewhere, cluster._versions("mlp")
    )
    lines = cluster._work(plan(config, ("after",))[0], shared)
    assert lines[-1]["kind"] == "final"
    assert not (tmp_path / "not there").exists()


@pytest.mark.slow
def test_a_worker_that_is_lost_again_and_again_is_explained(tmp_path):
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    config = tiny.config(model=model(tmp_path, "os._exit(9)"))
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as local,
        cluster.named(local.scheduler_address.replace("tcp://", "dask://")).connected() as connection,
        pytest.raises(
            ModelError, match=r"could not be done there: (KilledWorker|FutureCancelledError): .*out of memory"
        ),
    ):
        list(cluster.run_on(connection, config, plan(config, ("after",)), tiny.dataset(), []))


@pytest.mark.slow
def test_ray_gives_the_same_numbers_as_this_process():
    pytest.importorskip("ray", reason="the extra ray is not installed")
    config = tiny.config(seeds=2, dropout=0.2)
    tasks = plan(config, ("after",))
    here = by_name(pool.run_all(config, tasks, tiny.dataset(), [0, 1], jobs=1))
    with cluster.named("ray").connected() as connection:
        for jobs, some in ((2, tasks), (1, tasks[:1])):
            there = by_name(cluster.run_on(connection, config, some, tiny.dataset(), [0, 1], jobs))
            assert there == {task.name: here[task.name] for task in some}
            found = list(connection.results(where, [1, 2], {"shared": 1}, most=jobs))
            assert os.getpid() not in {process for _, process, _ in found}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slurm", "--cluster 'slurm' is unknown; choose dask://HOST:PORT or ray"),
        ("", "--cluster '' is unknown"),
        ("tcp://here:1", "--cluster 'tcp://here:1' is unknown"),
        ("dask://here", "--cluster 'dask://here' needs a host and a port, such as dask://localhost:8786"),
        ("dask://:8786", "needs a host and a port"),
        ("dask://here:port", "needs a host and a port"),
        ("dask://here:99999", "needs a host and a port"),
    ],
)
def test_bad_addresses_are_quoted(text, said):
    with pytest.raises(UsageError) as caught:
        cluster.named(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(("text", "extra"), [("dask://here:8786", "dask"), ("ray", "ray")])
def test_a_missing_extra_is_named_with_its_command(monkeypatch, text, extra):
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=rf"not installed: pip install 'batchnorm\[{extra}\]'$"):
        cluster.named(text)


def test_nobody_there_and_nobody_working_are_told_before_anything_is_written(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    monkeypatch.setattr(cluster, "_TIMEOUT", 0.5)
    prepared = prepare(tiny.config(data=str(tiny.npz(tmp_path / "tiny.npz"))), tmp_path / "out")
    with pytest.raises(UsageError, match=r"--cluster 'dask://127.0.0.1:9' does not answer: "):
        compare(prepared, cluster="dask://127.0.0.1:9")
    with distributed.LocalCluster(
        n_workers=0, processes=False, dashboard_address=":0", protocol="tcp://"
    ) as local:
        address = local.scheduler_address.replace("tcp://", "dask://")
        with pytest.raises(UsageError, match=r"has no workers; start some: dask worker 127.*--nthreads 1$"):
            compare(prepared, cluster=address)
    assert not (tmp_path / "out").exists()


def test_several_devices_and_a_cluster_do_not_go_together(tmp_path):
    config = tiny.config(devices=2)
    with pytest.raises(UsageError, match=r"--devices 2 and --cluster 'ray' do not go together"):
        compare(prepare(config, tmp_path / "out"), cluster="ray")
