"""`batchnorm compare`: train every arm at every rate and seed, and leave the records in a folder."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from batchnorm.errors import DataError, UsageError
from batchnorm.extras import require_lab
from batchnorm.lab import cluster as clusters
from batchnorm.lab import data, logs, pool, targets
from batchnorm.lab.checkpoints import AFTER, Checkpoints
from batchnorm.lab.config import CompareConfig
from batchnorm.lab.environment import config_line
from batchnorm.lab.networks import placements_of, try_networks
from batchnorm.lab.plan import Task, extension, plan
from batchnorm.lab.progress import ProgressFile
from batchnorm.lab.settings import MOST_JOBS, whole
from batchnorm.lab.splits import Dataset
from batchnorm.lab.thumbnails import samples
from batchnorm.records.store import Run, Store, read

__all__ = ["Observer", "Prepared", "check", "compare", "prepare"]

Line = dict[str, Any]


class Observer(Protocol):
    """Is told how a comparison gets on; see `batchnorm.cli.live`."""

    wants_epochs: bool

    def begin(self, folder: Path, total: int, done: int, epochs: int, news: ProgressFile) -> None:
        """`done` of `total` runs were there already; `news` gives the epochs of runs that are under way."""

    def finished(self, lines: list[Line]) -> None:
        """A run has ended and is on disk."""

    def extended(self, tasks: Sequence[Task], missing: int) -> None:
        """Further runs follow at a rate beyond the edge of the grid, `missing` of them still to be done."""

    def noted(self, text: str) -> None:
        """Something that changes no number and that a person should know."""


@dataclass(frozen=True)
class Prepared:
    """A comparison whose data and networks have been seen to work; nothing is written yet."""

    config: CompareConfig
    dataset: Dataset
    placements: tuple[str, ...]
    settings: dict[str, Any]
    folder: Path


def prepare(config: CompareConfig, out: str | os.PathLike[str] | None = None) -> Prepared:
    """Load the data and build the network of each arm once, so that what cannot work is refused at once.

    Args:
        config: the settings.
        out: folder of the results; None gives these settings a folder of their own in `batchnorm-runs`.

    Raises:
        UsageError: the data, the model or an arm does not work.
        MissingExtraError: a package of the extra `lab` is not installed.
    """
    require_lab()
    dataset = data.load(config.data)
    _refuse_small_splits(config, dataset)
    placements = placements_of(config, dataset)
    try_networks(config, dataset, placements)
    digests = dataset.digest, targets.source_digest(config.model)
    folder = config.default_folder(*digests) if out is None else Path(out)
    return Prepared(config, dataset, placements, config.settings(*digests), folder)


def check(
    config: CompareConfig,
    *,
    jobs: int | str | None = None,
    cluster: str | None = None,
    log: str | Sequence[str] = (),
) -> None:
    """Refuse bad values of what `compare` takes beside the settings, before data are loaded.

    Raises:
        UsageError: a value is unknown or out of range.
        MissingExtraError: a package that one of them needs is not installed.
    """
    if jobs is not None:
        whole("--jobs", jobs, least=1, most=MOST_JOBS)
    _place(config, cluster)
    logs.chosen(log)


def compare(
    prepared: Prepared,
    *,
    jobs: int | str | None = None,
    observer: Observer | None = None,
    command: str | None = None,
    cluster: str | None = None,
    log: str | Sequence[str] = (),
    checkpoint_after: float = AFTER,
) -> Path:
    """Do the runs that the folder does not hold yet, and return the folder.

    Every finished run is on disk before the next is counted. After an interruption of any kind the same
    call does what is missing, and ends with the same results.

    Args:
        prepared: from `prepare`.
        jobs: runs at a time, each in a process of its own; None means as many as the usable cores have room for, or the
            cluster.
        observer: is told how it gets on.
        command: written into the records.
        cluster: do the runs there; see `batchnorm.lab.cluster.named`.
        log: readers of the records that get each run when it has ended; see `batchnorm.lab.logs.chosen`.
        checkpoint_after: seconds from the start of a run to its first checkpoint. A run that was cut off later goes on
            from its last epoch, to the same numbers.

    Raises:
        UsageError: the cluster does not answer, or a value is unknown.
        MissingExtraError: a package that the cluster or the log needs is not installed.
        StoreError: the folder holds something else, or cannot be written.
        ModelError: a network failed in training. Finished runs are kept.

    Example:
        >>> config = CompareConfig.of(model="mlp", norms="none", lrs="0.1", epochs=1, seeds=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     len(read(compare(prepare(config, folder), jobs=1)).runs)
        1
    """
    config = prepared.config
    count = None if jobs is None else whole("--jobs", jobs, least=1, most=MOST_JOBS)
    place = _place(config, cluster)
    readers = logs.chosen(log)
    shown = samples(prepared.dataset)
    with (
        tempfile.TemporaryDirectory(prefix="batchnorm-") as scratch,
        place.connected() if place is not None else contextlib.nullcontext() as connection,
        Store(prepared.folder, config_line(prepared.settings, command)) as store,
    ):
        there = store.records
        if there.data is None or len(there.samples) < len(shown):
            store.append([_data_line(prepared.dataset), *shown])
        checkpoints = Checkpoints.beside(prepared.folder, prepared.settings, checkpoint_after)
        tasks = plan(config, prepared.placements)
        done = {task.name for task in tasks} & there.runs.keys()
        news = ProgressFile(Path(scratch))
        if observer is not None:
            observer.begin(prepared.folder, len(tasks), len(done), config.epochs, news)
        logbooks = logs.opened(readers, prepared.folder, prepared.settings)
        logbooks.catch_up(there.runs.values())
        shift = _Shift(prepared, store, shown, count, observer, news, checkpoints, connection, logbooks)
        with checkpoints.kept(there.runs):
            shift.do(tasks)
            further = extension(config, prepared.placements, read(prepared.folder).runs.values())
            missing = [task for task in further if task.name not in there.runs]
            if missing:
                if observer is not None:
                    observer.extended(further, len(missing))
                shift.do(missing)
    return prepared.folder


def _place(config: CompareConfig, cluster: str | None) -> clusters.Cluster | None:
    if cluster is None:
        return None
    if config.devices > 1:
        raise UsageError(
            f"--devices {config.devices} and --cluster {cluster!r} do not go together: there a run has one device"
        )
    return clusters.named(cluster)


def _refuse_small_splits(config: CompareConfig, dataset: Dataset) -> None:
    for name, split in (("training", dataset.train), ("validation", dataset.validation)):
        if len(split.y) < 2:  # batch norm has no statistics of one sample
            raise DataError(f"--data '{config.data}' has {len(split.y)} {name} sample; at least 2 are needed")
    for name, split in (
        ("training", dataset.train),
        ("validation", dataset.validation),
        ("test", dataset.test),
    ):
        least = 2 * config.devices if name == "training" else config.devices
        if len(split.y) < least:
            raise DataError(
                f"--data '{config.data}' has {len(split.y)} {name} samples; --devices {config.devices} needs {least}"
            )


@dataclass(frozen=True)
class _Shift:
    """Does runs, here or elsewhere, and brings what they return to the store and to who wants to know."""

    prepared: Prepared
    store: Store
    shown: Sequence[Line]
    jobs: int | None
    observer: Observer | None
    news: ProgressFile
    checkpoints: Checkpoints
    connection: clusters.Connection | None
    logbooks: logs.Logbooks

    def do(self, tasks: Sequence[Task]) -> None:
        missing = [task for task in tasks if task.name not in self.store.records.runs]
        for lines in self._results(missing):
            self.store.append(lines)
            self.checkpoints.of_run(lines[0]["run"]).remove()
            if self.observer is not None:
                for note in self.checkpoints.notes():
                    self.observer.noted(note)
                self.observer.finished(lines)
            self.logbooks.write(Run.of(lines))

    def _results(self, tasks: Sequence[Task]) -> Iterator[list[Line]]:
        config = self.prepared.config
        indices = [line["index"] for line in self.shown]
        wanted = self.observer is not None and self.observer.wants_epochs
        progress = self.news.writer if wanted else None
        what = config, tasks, self.prepared.dataset, indices
        if self.connection is not None:
            return clusters.run_on(self.connection, *what, self.jobs, progress, self.checkpoints)
        jobs = self.jobs or pool.default_jobs(config.device, config.devices)
        note = pool.crowding(min(jobs, len(tasks)), config.device, config.devices)
        if note is not None and self.observer is not None:
            self.observer.noted(note)
        return pool.run_all(*what, jobs, progress, self.checkpoints)


def _data_line(dataset: Dataset) -> Line:
    return {
        "kind": "data",
        "name": dataset.name,
        "class_names": list(dataset.class_names),
        "input_shape": list(dataset.input_shape),
        "train": len(dataset.train.y),
        "validation": len(dataset.validation.y),
        "test": len(dataset.test.y),
        "digest": dataset.digest,
    }
