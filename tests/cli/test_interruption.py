"""Real processes, stopped at real moments."""

import os
import signal
import subprocess
import sys
import time

import pytest

from batchnorm.lab.compare import compare, prepare
from batchnorm.records import read
from tests.lab import tiny
from tests.lab.test_compare import results

if not hasattr(os, "killpg"):
    pytest.skip("process groups are POSIX's", allow_module_level=True)

# A run takes some 100 ms, so that a kill hits the middle of one.
VALUES = {
    "seeds": "4",
    "epochs": "40",
    "batch-size": "4",
    "model": "mlp",
    "set": "model.hidden=5,4",
    "lrs": "0.1,0.5",
}


def start(folder, jobs=2, **extra):
    options = [
        f"--{name}={value}" for name, value in {**VALUES, "data": str(folder / "tiny.npz"), **extra}.items()
    ]
    command = [sys.executable, "-m", "batchnorm", "compare", *options, f"--jobs={jobs}", "--device=cpu"]
    return subprocess.Popen(
        [*command, f"--out={folder / 'out'}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(folder):
    file = folder / "out" / "results.jsonl"
    return file.read_bytes().count(b'"kind":"final"') if file.exists() else 0


def wait_for(folder, process, runs):
    deadline = time.monotonic() + 120
    while finished(folder) < runs and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()


def alive(session):
    """The processes of the session that are there and not merely waiting to be buried."""
    lines = subprocess.run(["ps", "-eo", "pid,sess,stat"], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in lines.splitlines()[1:]]
    return [
        pid for pid, session_of, state in rows if session_of == str(session) and not state.startswith("Z")
    ]


def wait_until_gone(session):
    deadline = time.monotonic() + 20
    while alive(session) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive(session) == []


@pytest.fixture
def folder(tmp_path):
    tiny.npz(tmp_path / "tiny.npz")
    return tmp_path


def undisturbed(folder):
    names = {name.replace("-", "_"): value for name, value in VALUES.items() if name != "set"}
    config = tiny.config(data=str(folder / "tiny.npz"), **names)
    return results(compare(prepare(config, folder / "undisturbed"), jobs=1))


@pytest.mark.parametrize(("jobs", "moments"), [(1, [2]), pytest.param(2, [0, 1, 4], marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_started_again_it_ends_with_the_same_results(folder, jobs, moments):
    for runs in moments:
        process = start(folder, jobs)
        wait_for(folder, process, runs)
        time.sleep(0.05)
        process.kill()
        process.communicate()
        wait_until_gone(process.pid)
    process = start(folder, jobs)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert errors == ""
    assert output.splitlines()[-1] == f"Report: {folder / 'out' / 'report.html'}"
    assert results(folder / "out") == undisturbed(folder)


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_stops_all_processes_and_says_how_to_go_on(folder, jobs):
    process = start(folder, jobs, seeds=50)
    wait_for(folder, process, 2)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.startswith("Stopped; ")
    assert "To go on: batchnorm compare " in errors
    assert errors.count("\n") == 1
    kept = int(errors.split()[1])
    assert len(read(folder / "out").runs) == kept >= 2
    wait_until_gone(process.pid)


def test_two_at_a_time_in_one_folder_is_refused(folder):
    first = start(folder, jobs=1, seeds=50)
    wait_for(folder, first, 1)
    second = start(folder, jobs=1, seeds=50)
    _, errors = second.communicate(timeout=60)
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert errors == f"error: '{folder / 'out'}' is being written by another process\n"


def test_a_file_that_may_not_grow_further_is_one_line(folder):
    import resource

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    options = [f"--{name}={value}" for name, value in VALUES.items()]
    arguments = [*options, f"--data={folder / 'tiny.npz'}", "--jobs=1", f"--out={folder / 'out'}"]
    done = subprocess.run(
        [sys.executable, "-m", "batchnorm", "compare", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=limit,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot write to '{folder / 'out'}': ")
    assert done.stderr.count("\n") == 1
