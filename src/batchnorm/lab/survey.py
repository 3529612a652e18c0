"""`batchnorm lab run`: do the runs of the chosen experiments, and judge each as soon as its last run has ended."""

import contextlib
import os
import tempfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from batchnorm import __version__
from batchnorm.errors import ModelError, StoreError
from batchnorm.extras import require_lab
from batchnorm.lab import cluster as clusters
from batchnorm.lab import data as data_sets
from batchnorm.lab import dispatch, logs
from batchnorm.lab.environment import config_line
from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.lab.experiments import chosen
from batchnorm.lab.judging import append, judge, was_run
from batchnorm.lab.pool import default_jobs
from batchnorm.lab.progress import ProgressFile
from batchnorm.lab.settings import MOST_JOBS, known, whole
from batchnorm.records import Store, read
from batchnorm.records.judged import Judged
from batchnorm.records.store import FILE_NAME, Line, Run
from batchnorm.records.verdicts import verdict_runs

__all__ = ["FEWEST_SEEDS", "Batch", "Watcher", "default_folder", "run"]

FEWEST_SEEDS, MOST_SEEDS = 3, 1000


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
    cluster: str | None = None,
    log: str | Sequence[str] = (),
) -> Path:
    """Do the runs that the folder does not hold yet, append the verdicts, and return the folder.

    Every finished run is on disk before the next is counted. After an interruption of any kind the same call does
    what is missing, and ends with the same results.

    Args:
        names: experiments by name, or `all`.
        out: folder of the survey; None takes one for these settings in `batchnorm-runs`.
        seeds: repetitions, at least 3; None leaves them to each experiment (3 or more quick, 5 or more otherwise).
        jobs: runs at a time, each in a process of its own; None means as many as the usable cores, or the cluster, have
            room for.
        quick: shorter runs and fewer seeds; every criterion is still decided.
        data: `digits`, `mnist`, `fashion-mnist` or `cifar10`, for the experiments that train on a data set.
        watcher: is told how it gets on.
        command: written into the records.
        cluster: do the runs there; see `batchnorm.lab.cluster.named`.
        log: readers of the records that get each run when it has ended, and each verdict, in a folder inside the
            claim's; see `batchnorm.lab.logs.chosen`.

    Raises:
        UsageError: a name or a value is unknown, or the cluster does not answer.
        MissingExtraError: a package that the cluster or the log needs is not installed.
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
    asked = None if jobs is None else whole("--jobs", jobs, least=1, most=MOST_JOBS)
    repeats = None if seeds is None else whole("--seeds", seeds, least=FEWEST_SEEDS, most=MOST_SEEDS)
    data = known("--data", data, data_sets.KNOWN)
    place = None if cluster is None else clusters.named(cluster)
    readers = logs.chosen(log)
    digest = data_sets.cached(data).digest if any(each.uses_data for each in experiments) else None
    folder = default_folder(quick=quick, seeds=repeats, data=data) if out is None else Path(out)
    _refuse_foreign(folder)
    with tempfile.TemporaryDirectory(prefix="batchnorm-") as scratch, contextlib.ExitStack() as stack:
        connection = None if place is None else stack.enter_context(place.connected())
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
            count = asked or (default_jobs("cpu") if connection is None else connection.room())
            watcher.begin(folder, list(batches.values()), count, news)
        books = {
            name: logs.opened(readers, folder / name, store.records.config["settings"])
            for name, store in stores.items()
        }
        failures = _Shift(batches, stores, books, folder, data, digest, asked, connection, watcher, news).do()
    if failures:
        more = f" ({len(failures)} experiments failed; this is the first)" if len(failures) > 1 else ""
        raise ModelError(f"{next(iter(failures.values()))}{more}; finished runs are kept in '{folder}'")
    return folder


def default_folder(*, quick: bool, seeds: int | None, data: str) -> Path:
    """A folder of their own for these settings, so that the same command finds its results again."""
    parts = ["lab", *(["quick"] if quick else []), *([f"{seeds}-seeds"] if seeds else [])]
    return Path("batchnorm-runs") / "-".join([*parts, *([data] if data != "digits" else [])])


@dataclass(frozen=True)
class _Shift:
    """Does the missing runs, and brings what they return to the stores, the criteria and who wants to know."""

    batches: Mapping[str, Batch]
    stores: Mapping[str, Store]
    books: Mapping[str, logs.Logbooks]
    folder: Path
    data: str
    digest: str | None
    jobs: int | None
    connection: clusters.Connection | None
    watcher: Watcher | None
    news: ProgressFile

    def do(self) -> dict[str, ModelError]:
        """Do what is missing, and give the first error of each experiment that failed."""
        failures: dict[str, ModelError] = {}
        left = {name: len(batch.missing) for name, batch in self.batches.items()}
        for name, store in self.stores.items():
            self.books[name].catch_up(store.records.runs.values())
            if not left[name]:
                self._judge(name)
        with contextlib.closing(self._attempts(failures)) as attempts:
            for name, outcome in attempts:
                if isinstance(outcome, ModelError):
                    if name not in failures and self.watcher is not None:
                        self.watcher.failed(name, outcome)
                    failures.setdefault(name, outcome)
                    continue
                self.stores[name].append(outcome)
                left[name] -= 1
                if self.watcher is not None:
                    self.watcher.finished(name, outcome)
                self.books[name].write(Run.of(outcome))
                if not left[name]:
                    self._judge(name)
        return failures

    def _attempts(self, failures: Mapping[str, ModelError]) -> Generator[dispatch.Attempt, None, None]:
        # Lazily, so that an experiment that has failed is not tried again with its other seeds.
        calls = (
            (name, task)
            for name, batch in self.batches.items()
            for task in batch.missing
            if name not in failures
        )
        count = sum(len(batch.missing) for batch in self.batches.values())
        progress = self.news.writer if self.watcher is not None and self.watcher.wants_starts else None
        if not count:
            return
        if self.connection is not None:
            where = self.data, self.digest, self.jobs, progress
            yield from dispatch.there(self.connection, calls, *where)
        else:
            yield from dispatch.here(calls, min(self.jobs or default_jobs("cpu"), count), progress)

    def _judge(self, name: str) -> None:
        # From disk, so that a verdict never rests on what a reader of the records would not see.
        experiment = self.batches[name].experiment
        found = judge(experiment, read(self.folder / name), self.folder)
        append(self.folder, [found])
        if self.watcher is not None:
            self.watcher.judged(found)
        self.books[name].catch_up(verdict_runs(self.folder, experiment.number))


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
