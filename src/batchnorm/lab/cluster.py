"""Runs on other machines, through joblib's back ends for Dask and Ray: workers return records, the driver writes."""

import contextlib
import functools
import itertools
import logging
import os
import socket
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import joblib
import torch

from batchnorm import __version__
from batchnorm.errors import BatchNormError, ModelError, UsageError
from batchnorm.extras import require
from batchnorm.lab import targets
from batchnorm.lab.checkpoints import Checkpoints
from batchnorm.lab.config import CompareConfig
from batchnorm.lab.plan import Task
from batchnorm.lab.pool import Packed
from batchnorm.lab.splits import Dataset

__all__ = ["Cluster", "Connection", "Dask", "Ray", "Work", "alone", "named", "run_on", "versions"]

Line = dict[str, Any]
Work = Callable[[Any, Any], Any]
T = TypeVar("T")

_TIMEOUT = 10  # seconds for a scheduler to answer
# A run sets the threads and the random state of its process: two at a time in one would disturb each other.
_ONE_RUN = threading.Lock()


class Connection(Protocol):
    """An open way to the workers of a cluster."""

    def room(self) -> int:
        """How many calls the cluster can make at a time."""

    def results(
        self, work: Work, items: Iterable[Any], shared: Any, most: int | None = None
    ) -> Iterator[Any]:
        """Call `work(item, shared)` on the workers and give what it returns, in the order in which it ends.

        Args:
            work: a function that workers can import by name; it runs alone in its process.
            items: small, one a call; taken as they are sent, some more than are being made.
            shared: large; travels to a worker once.
            most: calls at a time; None for as many as the cluster has room for.

        Raises:
            ModelError: a call raised, or its worker was lost.
        """


class Cluster(Protocol):
    """Where runs are done when not on this machine."""

    def connected(self) -> contextlib.AbstractContextManager[Connection]:
        """Connect, for as long as the context lasts.

        Raises:
            UsageError: nobody answers, or there are no workers.
        """


def named(text: str) -> "Dask | Ray":
    """Read the value of `--cluster`.

    Args:
        text: `dask://HOST:PORT`, the address of a Dask scheduler, or `ray`: the cluster that RAY_ADDRESS names, or
            one that Ray starts here.

    Raises:
        UsageError: it is neither.
        MissingExtraError: the package is not installed.

    Example:
        >>> try:
        ...     named("slurm")
        ... except UsageError as error:
        ...     print(error)
        --cluster 'slurm' is unknown; choose dask://HOST:PORT or ray
    """
    if text == "ray":
        require("ray")
        return Ray()
    scheme, _, address = text.partition("://")
    if scheme != "dask":
        raise UsageError(f"--cluster {text!r} is unknown; choose dask://HOST:PORT or ray")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"--cluster {text!r} needs a host and a port, such as dask://localhost:8786")
    require("dask")
    return Dask(address)


@dataclass(frozen=True)
class Dask:
    """A Dask cluster, by the address of its scheduler."""

    address: str

    @contextlib.contextmanager
    def connected(self) -> Iterator[Connection]:
        """See `Cluster.connected`."""
        from distributed import Client

        shown = f"--cluster 'dask://{self.address}'"
        with _silent("distributed"):
            try:
                client = Client(f"tcp://{self.address}", timeout=_TIMEOUT, set_as_default=False)
            except (OSError, TimeoutError, ValueError) as error:
                raise UsageError(f"{shown} does not answer: {_line(error)}") from None
            with client:
                if not client.ncores():
                    raise UsageError(
                        f"{shown} has no workers; start some: dask worker {self.address} --nthreads 1"
                    )
                yield _OnDask(shown, client)


class _OnDask:
    def __init__(self, shown: str, client: Any) -> None:
        self.shown, self.client = shown, client

    def room(self) -> int:
        return max(sum(self.client.ncores().values()), 1)

    def results(
        self, work: Work, items: Iterable[Any], shared: Any, most: int | None = None
    ) -> Iterator[Any]:
        with _named_failures(self.shown), joblib.parallel_config(backend=_back_end(self.client, shared)):
            # The back end counts all workers whatever it is told; what is not sent out is not begun.
            parallel = joblib.Parallel(
                return_as="generator_unordered", batch_size=1, pre_dispatch=most or "2 * n_jobs"
            )
            found = parallel(joblib.delayed(work)(item, shared) for item in items)
            try:
                yield from found
            finally:
                found.close()


def _back_end(client: Any, shared: Any) -> Any:
    from joblib._dask import DaskDistributedBackend

    class Elsewhere(DaskDistributedBackend):
        def effective_n_jobs(self, n_jobs: int) -> int:
            # Joblib makes the calls itself where there is room for one only.
            return max(int(super().effective_n_jobs(n_jobs)), 2)

    return Elsewhere(client=client, scatter=[shared])


@dataclass(frozen=True)
class Ray:
    """The Ray cluster that RAY_ADDRESS names, or one on this machine."""

    @contextlib.contextmanager
    def connected(self) -> Iterator[Connection]:
        """See `Cluster.connected`."""
        import ray
        from ray.util.joblib import register_ray

        ours = not ray.is_initialized()
        with _silent("ray"):
            if ours:
                here: dict[str, Any] = {"address": "local", "include_dashboard": False}
                here = {} if os.environ.get("RAY_ADDRESS") else here
                try:
                    ray.init(
                        log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **here
                    )
                except (OSError, RuntimeError, ValueError) as error:
                    raise UsageError(f"--cluster 'ray' does not answer: {_line(error)}") from None
            try:
                register_ray()
                yield _OnRay(ray)
            finally:
                if ours:
                    ray.shutdown()


class _OnRay:
    def __init__(self, ray: Any) -> None:
        self.ray = ray

    def room(self) -> int:
        return max(int(self.ray.cluster_resources().get("CPU", 1)), 1)

    def results(
        self, work: Work, items: Iterable[Any], shared: Any, most: int | None = None
    ) -> Iterator[Any]:
        items = iter(items)
        batch = list(itertools.islice(items, min(self.room(), most or self.room())))
        count = max(len(batch), 1)
        reference = self.ray.put(shared)
        with _named_failures("--cluster 'ray'"):
            if count == 1:  # joblib would make the calls itself
                remote = self.ray.remote(work)  # which gets what the reference stands for
                for item in itertools.chain(batch, items):
                    yield self.ray.get(remote.remote(item, reference))
                return
            # Joblib cannot give Ray's results one by one, and what has ended must reach the disk: so it gets
            # as many at a time as run at a time.
            with (
                joblib.parallel_config(backend="ray"),
                joblib.Parallel(n_jobs=count, batch_size=1) as parallel,
            ):
                call = joblib.delayed(functools.partial(_fetched, work, reference))
                while batch:
                    yield from parallel([call(item) for item in batch])
                    batch = list(itertools.islice(items, count))


def _fetched(work: Work, reference: Any, item: Any) -> Any:
    import ray

    return work(item, ray.get(reference))


@dataclass(frozen=True)
class _Shared:
    """What every run of a comparison needs, and what a worker's machine must agree with."""

    config: CompareConfig
    data: Packed
    sample_indices: Sequence[int]
    progress: Callable[[Line], None] | None
    checkpoints: Checkpoints | None
    versions: dict[str, str | None]


def run_on(
    connection: Connection,
    config: CompareConfig,
    tasks: Sequence[Task],
    dataset: Dataset,
    sample_indices: Sequence[int],
    jobs: int | None = None,
    progress: Callable[[Line], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> Iterator[list[Line]]:
    """Do the runs on a cluster and give the lines of each as soon as it ends; the same lines as here, times aside.

    The data travels. A model of the user's own is loaded on the worker's machine, where its file must be under the same
    path and have the same text.

    Args:
        connection: to the cluster.
        jobs: runs at a time; None for as many as there is room for.
        config, tasks, dataset, sample_indices, progress, checkpoints: as for `batchnorm.lab.pool.run_all`; progress and
            checkpoints come through where workers see the results folder.

    Raises:
        ModelError: a run failed, a worker was lost, or has another version of batchnorm, torch or the model.
    """
    shared = _Shared(
        config, Packed.of(dataset), sample_indices, progress, checkpoints, _versions(config.model)
    )
    if tasks:
        for outcome in connection.results(_work, tasks, shared, jobs):
            if isinstance(outcome, str):
                raise ModelError(outcome)
            yield outcome


def _work(task: Task, shared: _Shared) -> list[Line] | str:
    """A run on a worker: its lines, or the message of what went wrong."""
    from batchnorm.lab.training import train

    def do() -> list[Line]:
        if shared.progress is not None:
            shared.progress({"kind": "started", **task.identity(), "epoch": 0})
        return train(
            shared.config,
            task,
            shared.data.dataset(),
            shared.sample_indices,
            shared.progress,
            shared.checkpoints,
        )

    return alone(shared.versions, lambda: _versions(shared.config.model), do)


def _versions(model: str) -> dict[str, str | None]:
    return {**versions(), f"--model {model!r}": targets.source_digest(model)}


def versions() -> dict[str, str | None]:
    """What the numbers of every run depend on beside its settings, without the part that names a build of torch."""
    return {"batchnorm": __version__, "torch": str(torch.__version__).partition("+")[0]}


def alone(
    versions: Mapping[str, str | None], here: Callable[[], Mapping[str, str | None]], do: Callable[[], T]
) -> T | str:
    """Do a run on a worker, alone in its process.

    Args:
        versions: what the driver has.
        here: gives what the worker has, under the same names.
        do: the run.

    Returns:
        What `do` does, or the message of what went wrong: a `BatchNormError`, or another version here.
    """
    try:
        found = here()
        for name, version in versions.items():
            if found[name] != version:
                return f"the worker on {socket.gethostname()} has {name} {found[name]}, the driver {version}"
        with _ONE_RUN:
            return do()
    except BatchNormError as error:
        return str(error)


@contextlib.contextmanager
def _named_failures(shown: str) -> Iterator[None]:
    try:
        yield
    except (BatchNormError, GeneratorExit, KeyboardInterrupt):
        raise
    except Exception as error:
        raise ModelError(
            f"{shown}: a run could not be done there: {_line(error)}; a worker that was lost may have run out of "
            "memory; finished runs are kept"
        ) from None


@contextlib.contextmanager
def _silent(library: str) -> Iterator[None]:
    """Hold back a library's remarks, which would tear the progress display."""
    logger = logging.getLogger(library)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
