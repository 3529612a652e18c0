import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchnorm.errors import ModelError
from batchnorm.lab import pool
from batchnorm.lab.plan import Task, plan
from batchnorm.lab.progress import ProgressFile
from tests.lab import tiny


def by_name(results):
    return {lines[0]["run"]: tiny.timeless(lines) for lines in results}


def test_results_do_not_depend_on_the_number_of_jobs(tmp_path):
    config = tiny.config(seeds=2, dropout=0.2)
    tasks = plan(config, ("after",))
    here = by_name(pool.run_all(config, tasks, tiny.dataset(), [0, 1], jobs=1))
    news = ProgressFile(tmp_path)
    there = by_name(pool.run_all(config, tasks, tiny.dataset(), [0, 1], jobs=2, progress=news.writer))
    assert here.keys() == {task.name for task in tasks}
    assert there == here
    told = news.news()
    assert {(line["run"], line["epoch"]) for line in told} == {
        (task.name, epoch) for task in tasks for epoch in range(3)
    }


MODEL = """
import os, torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act, self.last = torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        self.seed = torch.initial_seed()
    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            ACTION
        return self.last(self.act(self.first(x)))
def build():
    return Net()
"""


def model(tmp_path: Path, action: str) -> str:
    path = tmp_path / "net.py"
    path.write_text(MODEL.replace("ACTION", action))
    return f"{path}:build"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failing_model_stops_everything_with_one_line(tmp_path, jobs):
    config = tiny.config(model=model(tmp_path, "raise ValueError('out of luck')"), seeds=2)
    results = pool.run_all(config, plan(config, ("after",)), tiny.dataset(), [], jobs=jobs)
    with pytest.raises(ModelError, match=r"failed in training \(.*\): ValueError: out of luck$"):
        list(results)


def test_a_worker_that_dies_is_explained(tmp_path):
    config = tiny.config(model=model(tmp_path, "os._exit(9)"), seeds=2)
    results = pool.run_all(config, plan(config, ("after",)), tiny.dataset(), [], jobs=2)
    with pytest.raises(ModelError, match=r"fewer --jobs than 2 or a smaller --batch-size$"):
        list(results)


def test_a_command_without_batch_size_is_not_told_to_make_it_smaller(monkeypatch):
    class Results:
        def __iter__(self):
            raise pool.BrokenProcessPool

        def close(self):
            pass

    monkeypatch.setattr(pool.joblib, "Parallel", lambda **_: lambda calls: Results())
    with pytest.raises(
        ModelError, match=r"a worker process died, .* repeat the command with fewer --jobs than 2$"
    ):
        list(pool.in_processes([], jobs=2))


def test_no_more_processes_than_runs_and_none_without_runs():
    config = tiny.config()
    one = list(pool.run_all(config, [Task("none", None, 0.1, 0)], tiny.dataset(), [], jobs=8))
    assert [lines[-1]["kind"] for lines in one] == ["final"]
    assert list(pool.run_all(config, [], tiny.dataset(), [], jobs=8)) == []


def test_as_many_jobs_as_usable_cores_and_few_on_one_accelerator(monkeypatch):
    monkeypatch.setattr(pool.joblib, "cpu_count", lambda: 64)
    assert pool.default_jobs("cpu") == 64
    assert pool.default_jobs("cuda") == 4
    monkeypatch.setattr(pool.joblib, "cpu_count", lambda: 2)
    assert pool.default_jobs("cuda") == 2


def test_a_data_set_survives_packing():
    data = tiny.dataset()
    again = pool.Packed.of(data).dataset()
    assert again.digest == data.digest
    assert again.class_names == data.class_names
    for name in ("train", "validation", "test"):
        assert (getattr(again, name).x == getattr(data, name).x).all()
        assert (getattr(again, name).y == getattr(data, name).y).all()


@pytest.mark.parametrize("parent", ["this process", "a process that is gone"])
def test_a_worker_lives_only_as_long_as_its_driver(parent):
    driver = "os.getppid()" if parent == "this process" else "2**22 + 1"
    code = f"import os, time; from batchnorm.lab import pool; pool._end_with({driver}); time.sleep(2); os._exit(7)"
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == (7 if parent == "this process" else 1)


def test_ctrl_c_is_left_to_the_driver():
    code = (
        "import os, signal; from batchnorm.lab import pool; pool._follow(os.getppid()); "
        "os.kill(os.getpid(), signal.SIGINT); print('went on')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "went on\n"), ended.stderr


def test_every_worker_is_watched_before_it_gets_work(monkeypatch):
    given = {}

    class Parallel:
        def __init__(self, **options):
            given.update(options)

        def __call__(self, calls):
            raise InterruptedError

    monkeypatch.setattr(pool.joblib, "Parallel", Parallel)
    tasks = [Task("none", None, 0.1, seed) for seed in range(2)]
    with pytest.raises(InterruptedError):
        list(pool.run_all(tiny.config(), tasks, tiny.dataset(), [0], 2))
    assert given["initializer"] is pool._follow
    assert given["initargs"] == (os.getpid(),)


@pytest.mark.parametrize("before", [None, "default"])
def test_the_tracker_of_shared_memory_is_told_to_be_silent_and_the_environment_is_put_back(
    monkeypatch, before
):
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    if before is not None:
        monkeypatch.setenv("PYTHONWARNINGS", before)
    code = "import warnings; warnings.warn('resource_tracker: gone'); warnings.warn('another')"
    with pool._silent_tracker():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "gone" not in done.stderr
    assert "another" in done.stderr
    assert os.environ.get("PYTHONWARNINGS") == before
