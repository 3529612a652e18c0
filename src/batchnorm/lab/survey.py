"""`batchnorm lab run`: do the runs of the chosen experiments, and judge each as soon as its last run has ended."""

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from batchnorm import __version__
from batchnorm.errors import ModelError, StoreError
from batchnorm.extras import require_lab
from batchnorm.lab import data as data_sets
from batchnorm.lab.environment import config_line
from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.lab.experiments import chosen
from batchnorm.lab.judging import append, judge, was_run
from batchnorm.lab.perform import perform
from batchnorm.lab.pool import default_jobs, in_processes
from batchnorm.lab.progress import ProgressFile
from batchnorm.lab.settings import MOST_JOBS, known, whole
from batchnorm.records import Store, read
from batchnorm.records.judged import Judged
from batchnorm.records.store import FILE_NAME, Line

__all__ = ["FEWEST_SEEDS", "Batch", "Watcher", "default_folder", "run"]

FEWEST_SEEDS, MOST_SEEDS = 3, 1000
Attempt = tuple[str, list[Line] | ModelError]


@dataclass(frozen=True)
class Batch:
    """The runs of one experiment in a survey: how many there are, were there already, and are thought to take."""

    experiment: Experiment
    scale: Scale
    tasks: tuple[Task, ...]
    missing: tuple[Task, ...]

    @property
    def expected_seconds(self) -> float:
        """What one run takes, by the experiment's own measure."""
        return self.experiment.seconds[0 if self.scale.quick else 1] / max(1, len(self.tasks))


class Watcher(Protocol):
    """Is told how a survey gets on; see `batchnorm.cli.lab_live`."""

    wants_starts: bool

    def begin(self, folder: Path, batches: Sequence[Batch], jobs: int, news: ProgressFile) -> None:
        """These runs are there or will be done; `news` gives those that have started."""

    def finished(self, name: str, lines: list[Line]) -> None:
        """A run of the experiment `name` has ended and is on disk."""

    def failed(self, name: str, error: ModelError) -> None:
        """A run of the experiment `name` has failed; no further runs of it are started."""

    def judged(self, found: Judged) -> None:
        """Every run of a claim is there, and its verdict is on disk."""


def run(
    names: Iterable[str],
    out: str | os.PathLike[str] | None = None,
    *,
    seeds: int | str | None = None,
    jobs: int | str | None = None,
    quick: bool = False,
    data: str = "digits",
    watcher: Watcher | None = None,
    command: str | None = None,
) -> Path:
    """Do the runs that the folder does not hold yet, append the verdicts, and return the folder.

    Every finished run is on disk before the next is counted. After an interruption of any kind the same call does
    what is missing, and ends with the same results.

    Args:
        names: experiments by name, or `all`.
        out: folder of the survey; None takes one for these settings in `batchnorm-runs`.
        seeds: repetitions, at least 3; None leaves them to each experiment (3 or more quick, 5 or more otherwise).
        jobs: runs at a time, each in a process of its own; None means as many as there are usable cores.
        quick: shorter runs and fewer seeds; every criterion is still decided.
        data: `digits`, `mnist`, `fashion-mnist` or `cifar10`, for the experiments that train on a data set.
        watcher: is told how it gets on.
        command: written into the records.

    Raises:
        UsageError: a name or a value is unknown.
        DataError: the data cannot be loaded.
        StoreError: the folder holds something else, or cannot be written.
        ModelError: a run failed. The other experiments were run all the same, and finished runs are kept.

    Example:
        >>> from batchnorm.records.verdicts import read_verdicts
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = read_verdicts(run(["before-and-after"], folder, quick=True, jobs=1))
        >>> found[10]["verdict"]
        'reproduced'
    """
    require_lab()
    experiments = chosen(names)
    count = default_jobs("cpu") if jobs is None else whole("--jobs", jobs, least=1, most=MOST_JOBS)
    repeats = None if seeds is None else whole("--seeds", seeds, least=FEWEST_SEEDS, most=MOST_SEEDS)
    data = known("--data", data, data_sets.KNOWN)
    digest = data_sets.cached(data).digest if any(each.uses_data for each in experiments) else None
    folder = default_folder(quick=quick, seeds=repeats, data=data) if out is None else Path(out)
    _refuse_foreign(folder)
    with tempfile.TemporaryDirectory(prefix="batchnorm-") as scratch, contextlib.ExitStack() as stack:
        batches: dict[str, Batch] = {}
        stores: dict[str, Store] = {}
        for each in experiments:
            scale = each.scale(quick=quick, seeds=repeats, data=data)
            config = _config(each, scale, digest, command)
            stores[each.name] = store = stack.enter_context(Store(folder / each.name, config))
            tasks = tuple(each.plan(scale))
            missing = tuple(task for task in tasks if task.name not in store.records.runs)
            batches[each.name] = Batch(each, scale, tasks, missing)
        news = ProgressFile(Path(scratch))
        if watcher is not None:
            watcher.begin(folder, list(batches.values()), count, news)
        failures = _do(batches, stores, folder, count, watcher, news)
    if failures:
        more = f" ({len(failures)} experiments failed; this is the first)" if len(failures) > 1 else ""
        raise ModelError(f"{next(iter(failures.values()))}{more}; finished runs are kept in '{folder}'")
    return folder


def default_folder(*, quick: bool, seeds: int | None, data: str) -> Path:
    """A folder of their own for these settings, so that the same command finds its results again."""
    parts = ["lab", *(["quick"] if quick else []), *([f"{seeds}-seeds"] if seeds else [])]
    return Path("batchnorm-runs") / "-".join([*parts, *([data] if data != "digits" else [])])


def _do(
    batches: Mapping[str, Batch],
    stores: Mapping[str, Store],
    folder: Path,
    jobs: int,
    watcher: Watcher | None,
    news: ProgressFile,
) -> dict[str, ModelError]:
    """Do what is missing, and give the first error of each experiment that failed."""
    failures: dict[str, ModelError] = {}
    left = {name: len(batch.missing) for name, batch in batches.items()}
    for name in [name for name in left if not left[name]]:
        _judge(batches[name], folder, watcher)
    progress = news.writer if watcher is not None and watcher.wants_starts else None
    for name, outcome in _attempts(batches, failures, jobs, progress):
        if isinstance(outcome, ModelError):
            if name not in failures and watcher is not None:
                watcher.failed(name, outcome)
            failures.setdefault(name, outcome)
            continue
        stores[name].append(outcome)
        left[name] -= 1
        if watcher is not None:
            watcher.finished(name, outcome)
        if not left[name]:
            _judge(batches[name], folder, watcher)
    return failures


def _attempts(
    batches: Mapping[str, Batch],
    failures: Mapping[str, ModelError],
    jobs: int,
    progress: Callable[[Line], None] | None,
) -> Iterator[Attempt]:
    # Lazily, so that an experiment that has failed is not tried again with its other seeds.
    calls = (
        functools.partial(_attempt, name, task, progress)
        for name, batch in batches.items()
        for task in batch.missing
        if name not in failures
    )
    jobs = min(jobs, sum(len(batch.missing) for batch in batches.values()))
    if jobs > 1:
        yield from in_processes(calls, jobs)
    else:
        for call in calls:
            yield call()


def _attempt(name: str, task: Task, progress: Callable[[Line], None] | None) -> Attempt:
    """A run, or its error: one experiment that fails must not stop the others."""
    try:
        return name, perform(name, task, progress)
    except ModelError as error:
        return name, error


def _judge(batch: Batch, folder: Path, watcher: Watcher | None) -> None:
    # From disk, so that a verdict never rests on what a reader of the records would not see.
    name = batch.experiment.name
    found = judge(batch.experiment, read(folder / name), folder)
    append(folder, [found])
    if watcher is not None:
        watcher.judged(found)


def _config(experiment: Experiment, scale: Scale, digest: str | None, command: str | None) -> Line:
    settings: dict[str, Any] = {
        "claim": experiment.number,
        "name": experiment.name,
        "quick": scale.quick,
        "seeds": scale.seeds,
        "data": scale.data if experiment.uses_data else None,
        "data_digest": digest if experiment.uses_data else None,
        "device": "cpu",
        "batchnorm": __version__,
        "torch": str(torch.__version__),
    }
    return config_line(settings, command)


def _refuse_foreign(folder: Path) -> None:
    """A survey fills its folder with pages, so it must be its own: new, empty, or one of the lab's."""
    if not folder.is_dir():
        return
    if (folder / FILE_NAME).exists():
        raise StoreError(f"'{folder}' holds results of a comparison; choose another --out")
    foreign = sorted(entry.name for entry in folder.iterdir())
    if foreign and not was_run(folder):
        raise StoreError(f"'{folder}' is not empty and holds no results of the lab ('{foreign[0]}' is there)")
