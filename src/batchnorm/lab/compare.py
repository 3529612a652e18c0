"""`batchnorm compare`: train every arm at every rate and seed, and leave the records in a folder."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from batchnorm.errors import DataError
from batchnorm.extras import require_lab
from batchnorm.lab import data, targets
from batchnorm.lab.config import CompareConfig
from batchnorm.lab.environment import config_line
from batchnorm.lab.networks import placements_of, try_networks
from batchnorm.lab.plan import Task, extension, plan
from batchnorm.lab.pool import default_jobs, run_all
from batchnorm.lab.progress import ProgressFile
from batchnorm.lab.settings import MOST_JOBS, whole
from batchnorm.lab.splits import Dataset
from batchnorm.lab.thumbnails import samples
from batchnorm.records.store import Store, read

__all__ = ["Observer", "Prepared", "compare", "prepare"]

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


def compare(
    prepared: Prepared,
    *,
    jobs: int | str | None = None,
    observer: Observer | None = None,
    command: str | None = None,
) -> Path:
    """Do the runs that the folder does not hold yet, and return the folder.

    Every finished run is on disk before the next is counted. After an interruption of any kind the same
    call does what is missing, and ends with the same results.

    Args:
        prepared: from `prepare`.
        jobs: runs at a time, each in a process of its own; None means as many as there are usable cores.
        observer: is told how it gets on.
        command: written into the records.

    Raises:
        StoreError: the folder holds something else, or cannot be written.
        ModelError: a network failed in training. Finished runs are kept.

    Example:
        >>> config = CompareConfig.of(model="mlp", norms="none", lrs="0.1", epochs=1, seeds=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     len(read(compare(prepare(config, folder), jobs=1)).runs)
        1
    """
    config = prepared.config
    count = default_jobs(config.device) if jobs is None else whole("--jobs", jobs, least=1, most=MOST_JOBS)
    shown = samples(prepared.dataset)
    with (
        tempfile.TemporaryDirectory(prefix="batchnorm-") as scratch,
        Store(prepared.folder, config_line(prepared.settings, command)) as store,
    ):
        there = store.records
        if there.data is None or len(there.samples) < len(shown):
            store.append([_data_line(prepared.dataset), *shown])
        tasks = plan(config, prepared.placements)
        done = {task.name for task in tasks} & there.runs.keys()
        news = ProgressFile(Path(scratch))
        if observer is not None:
            observer.begin(prepared.folder, len(tasks), len(done), config.epochs, news)
        _do(prepared, tasks, store, shown, count, observer, news)
        further = extension(config, prepared.placements, read(prepared.folder).runs.values())
        missing = [task for task in further if task.name not in there.runs]
        if missing:
            if observer is not None:
                observer.extended(further, len(missing))
            _do(prepared, missing, store, shown, count, observer, news)
    return prepared.folder


def _refuse_small_splits(config: CompareConfig, dataset: Dataset) -> None:
    for name, split in (("training", dataset.train), ("validation", dataset.validation)):
        if len(split.y) < 2:  # batch norm has no statistics of one sample
            raise DataError(f"--data '{config.data}' has {len(split.y)} {name} sample; at least 2 are needed")


def _do(
    prepared: Prepared,
    tasks: Sequence[Task],
    store: Store,
    shown: Sequence[Line],
    jobs: int,
    observer: Observer | None,
    news: ProgressFile,
) -> None:
    missing = [task for task in tasks if task.name not in store.records.runs]
    indices = [line["index"] for line in shown]
    progress = news.writer if observer is not None and observer.wants_epochs else None
    for lines in run_all(prepared.config, missing, prepared.dataset, indices, jobs, progress):
        store.append(lines)
        if observer is not None:
            observer.finished(lines)


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
