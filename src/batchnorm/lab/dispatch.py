"""Where the runs of a survey are done: in this process, in others of this machine, or on a cluster."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import batchnorm
from batchnorm.errors import ModelError
from batchnorm.lab import cluster
from batchnorm.lab import data as data_sets
from batchnorm.lab.experiment import Task
from batchnorm.lab.experiments import load
from batchnorm.lab.perform import perform
from batchnorm.lab.pool import in_processes
from batchnorm.records.store import Line

__all__ = ["Attempt", "Call", "here", "there"]

Call = tuple[str, Task]
Attempt = tuple[str, list[Line] | ModelError]
Progress = Callable[[Line], None]


def here(calls: Iterable[Call], jobs: int, progress: Progress | None = None) -> Iterator[Attempt]:
    """Do runs on this machine, and give the lines of each, or its error, as soon as it ends.

    Args:
        calls: experiment and task of each run; taken late, so that they may depend on what came out so far.
        jobs: processes; with 1 everything happens in this one.
        progress: told in the working process when a run starts; it must survive pickling.

    Raises:
        ModelError: a worker process died.
    """
    attempts = (functools.partial(_attempt, name, task, progress) for name, task in calls)
    if jobs > 1:
        yield from in_processes(attempts, jobs)
    else:
        for attempt in attempts:
            yield attempt()


def _attempt(name: str, task: Task, progress: Progress | None) -> Attempt:
    """A run, or its error: one experiment that fails must not stop the others."""
    try:
        return name, perform(name, task, progress)
    except ModelError as error:
        return name, error


@dataclass(frozen=True)
class _Shared:
    """What a worker must agree with, and where it tells that a run has started."""

    versions: dict[str, str | None]
    data: str
    digest: str | None
    progress: Progress | None


def there(
    connection: cluster.Connection,
    calls: Iterable[Call],
    data: str,
    digest: str | None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Attempt]:
    """Do runs on a cluster, and give the lines of each, or its error, as soon as it ends; the same lines, times aside.

    Args:
        connection: to the cluster.
        calls: as for `here`.
        data: name of the data set, which each worker loads for itself where an experiment uses one.
        digest: of the data set here.
        jobs: runs at a time; None for as many as there is room for.
        progress: as for `here`; comes through where workers see this machine's files.

    Raises:
        ModelError: a worker was lost. One with another batchnorm, torch or data set gives this error for its run.
    """
    shared = _Shared(_versions(), data, digest, progress)
    for name, outcome in connection.results(_work, calls, shared, jobs):
        yield name, ModelError(outcome) if isinstance(outcome, str) else outcome


def _work(call: Call, shared: _Shared) -> tuple[str, list[Line] | str]:
    name, task = call
    with_data, shown = load(name).uses_data, f"--data {shared.data!r}"

    def here() -> dict[str, str | None]:
        return {**_versions(), shown: data_sets.cached(shared.data).digest if with_data else None}

    told = {**shared.versions, shown: shared.digest if with_data else None}
    return name, cluster.alone(told, here, lambda: perform(name, task, shared.progress))


def _versions() -> dict[str, str | None]:
    return {**cluster.versions(), "batchnorm's sources": _sources()[:16]}


@functools.cache
def _sources() -> str:
    """The sha256 of this package's Python files: experiments change without a new version."""
    package = Path(batchnorm.__file__).parent
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        found.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes())
    return found.hexdigest()
