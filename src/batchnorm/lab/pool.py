"""Runs side by side, each in a process of its own kind: joblib's, or this one where a single job is asked for."""

import contextlib
import functools
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import joblib
import numpy as np
import torch
from joblib.externals.loky.process_executor import BrokenProcessPool

from batchnorm.errors import BatchNormError, ModelError
from batchnorm.lab.checkpoints import Checkpoints
from batchnorm.lab.config import CompareConfig
from batchnorm.lab.plan import Task
from batchnorm.lab.splits import Dataset, Split

__all__ = ["Packed", "crowding", "default_jobs", "in_processes", "run_all"]

Line = dict[str, Any]
Progress = Callable[[Line], None]
T = TypeVar("T")
_GPU_JOBS = 4  # each process holds some hundred MB of GPU memory before it computes anything


def default_jobs(device: str, devices: int = 1) -> int:
    """As many runs at a time as the usable cores have room for; a few where they share one accelerator."""
    cores = int(joblib.cpu_count())
    if devices > 1:
        return max(cores // devices, 1) if device == "cpu" else 1
    return cores if device == "cpu" else min(cores, _GPU_JOBS)


def crowding(jobs: int, device: str, devices: int) -> str | None:
    """What to say where runs on several devices have more processes than the machine has cores; else None."""
    cores, processes = int(joblib.cpu_count()), jobs * devices
    if devices == 1 or device != "cpu" or processes <= cores:
        return None
    return (
        f"{jobs} run{'s' if jobs > 1 else ''} at a time on {devices} devices are {processes} processes on {cores} "
        f"usable core{'s' if cores > 1 else ''}: they wait for each other; fewer --jobs or --devices take no longer"
    )


def run_all(
    config: CompareConfig,
    tasks: Sequence[Task],
    dataset: Dataset,
    sample_indices: Sequence[int],
    jobs: int,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
) -> Iterator[list[Line]]:
    """Do the runs, `jobs` at a time, and give the lines of each as soon as it ends.

    Closing the iterator, or an exception where it is consumed, stops the runs that are under way.

    Args:
        config: the settings.
        tasks: the runs.
        dataset: handed to the workers once, as memory-mapped arrays.
        sample_indices: test samples whose predictions are kept.
        jobs: processes; with 1 everything happens in this one.
        progress: called in the working process with each epoch's line; it must survive pickling.
        checkpoints: where a long run leaves its state.

    Raises:
        ModelError: a run failed, or a worker process died.
    """
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        for task in tasks:
            yield _train(config, task, dataset, sample_indices, progress, checkpoints)
        return
    packed = Packed.of(dataset)
    yield from in_processes(
        [
            functools.partial(_work, config, task, packed, sample_indices, progress, checkpoints)
            for task in tasks
        ],
        jobs,
        or_else="a smaller --batch-size",
    )


def in_processes(calls: Iterable[Callable[[], T]], jobs: int, or_else: str | None = None) -> Iterator[T]:
    """Make the calls in worker processes, `jobs` at a time, and give each result as soon as it is there.

    Closing the iterator, or an exception where it is consumed, stops the calls that are under way.

    Args:
        calls: must survive pickling, and so must their results.
        jobs: processes; they end with this one, also when it is killed.
        or_else: what may help beside fewer jobs when a worker dies, for the message.

    Raises:
        ModelError: a worker process died.
        BatchNormError: a call raised one, of the same type here as there.

    Example:
        >>> sorted(in_processes([functools.partial(pow, 2, n) for n in range(3)], jobs=2))
        [1, 2, 4]
    """
    parallel = joblib.Parallel(
        n_jobs=jobs,
        return_as="generator_unordered",
        batch_size=1,
        backend="loky",
        initializer=_follow,
        initargs=(os.getpid(),),
    )
    with warnings.catch_warnings(), _silent_tracker():
        warnings.simplefilter("ignore")
        results = parallel(joblib.delayed(_outcome)(call) for call in calls)
        try:
            for outcome in results:
                if isinstance(outcome, BatchNormError):
                    raise outcome
                yield outcome
        except BrokenProcessPool:
            remedies = " or ".join(filter(None, (f"fewer --jobs than {jobs}", or_else)))
            raise ModelError(
                "a worker process died, perhaps for lack of memory; finished runs are kept: repeat the command "
                f"with {remedies}"
            ) from None
        finally:
            results.close()


def _outcome(call: Callable[[], T]) -> T | BatchNormError:
    # Returned, because joblib would raise it here with the worker's whole traceback as its cause.
    try:
        return call()
    except BatchNormError as error:
        return error


@contextlib.contextmanager
def _silent_tracker() -> Iterator[None]:
    """Keep the process that cleans up after the others from warning about what is already gone.

    After Ctrl-C it finds shared memory that a worker has removed before it. It takes warning filters from the
    environment alone.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (before, "ignore:resource_tracker")))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PYTHONWARNINGS", None)
        else:
            os.environ["PYTHONWARNINGS"] = before


def _train(
    config: CompareConfig,
    task: Task,
    dataset: Dataset,
    sample_indices: Sequence[int],
    progress: Progress | None,
    checkpoints: Checkpoints | None = None,
) -> list[Line]:
    # Late, because it takes seconds to load and the process that only gives out work does not need it.
    from batchnorm.lab.training import train

    if progress is not None:
        progress({"kind": "started", **task.identity(), "epoch": 0})
    return train(config, task, dataset, sample_indices, progress, checkpoints)


def _work(
    config: CompareConfig,
    task: Task,
    packed: "Packed",
    sample_indices: Sequence[int],
    progress: Progress | None,
    checkpoints: Checkpoints | None,
) -> list[Line]:
    """A run in a worker process."""
    return _train(config, task, packed.dataset(), sample_indices, progress, checkpoints)


@dataclass(frozen=True)
class Packed:
    """A data set as numpy arrays, which joblib shares between processes instead of copying them."""

    rest: Dataset
    arrays: tuple[np.ndarray[Any, Any], ...]

    @classmethod
    def of(cls, dataset: Dataset) -> "Packed":
        """Share the memory of the tensors."""
        splits = (dataset.train, dataset.validation, dataset.test)
        arrays = tuple(tensor.numpy() for split in splits for tensor in (split.x, split.y))
        empty = Split(torch.empty(0), torch.empty(0))
        return cls(replace(dataset, train=empty, validation=empty, test=empty), arrays)

    def dataset(self) -> Dataset:
        """The data set, in the memory of the arrays, to be read only."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the arrays are read-only, and only read
            tensors = [torch.from_numpy(array) for array in self.arrays]
        train, validation, test = (Split(x, y) for x, y in zip(tensors[::2], tensors[1::2], strict=True))
        return replace(self.rest, train=train, validation=validation, test=test)


def _follow(driver: int) -> None:
    """Run first in each worker: it ends when the driver says so or has died, and by nothing else.

    Ctrl-C reaches every process of a terminal, and a worker that it meets between two calls writes a traceback.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with(driver)


def _end_with(driver: int) -> None:
    """Let this process end when the driver that started it has died, kill -9 included."""
    threading.Thread(target=_watch, args=(driver,), daemon=True).start()


def _watch(driver: int) -> None:
    while os.getppid() == driver:
        time.sleep(0.5)
    os._exit(1)
