"""One run of an experiment: from its task to the lines that the store keeps."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from batchnorm.errors import BatchNormError, ModelError
from batchnorm.lab.experiment import Experiment, Task
from batchnorm.lab.experiments import load
from batchnorm.lab.isolation import one_thread, own_random_state, quiet
from batchnorm.lab.targets import describe
from batchnorm.records.store import Line

__all__ = ["measure", "perform"]


def perform(name: str, task: Task, progress: Callable[[Line], None] | None = None) -> list[Line]:
    """Do a run of the experiment `name`, as a worker process does.

    Args:
        name: of the experiment; by name, because that is all that needs to go to another process.
        task: the run.
        progress: told when the run starts.

    Returns:
        The lines of the run: `run`, its `measurement`s, `final`.

    Raises:
        ModelError: the run raised something; the message names experiment, run and error.
    """
    if progress is not None:
        progress({"kind": "started", "claim": name, "run": task.name})
    began = time.perf_counter()
    try:
        found = measure(load(name), task)
    except BatchNormError as error:
        raise ModelError(f"experiment {name!r}, run {task.name}: {error}") from error
    except Exception as error:
        raise ModelError(f"experiment {name!r}, run {task.name}: {describe(error)}") from error
    seconds = time.perf_counter() - began
    identity = task.identity()
    return [
        {"kind": "run", **identity},
        *({"kind": "measurement", **identity, **record} for record in found),
        {"kind": "final", **identity, "measurements": len(found), "seconds": seconds},
    ]


def measure(experiment: Experiment, task: Task) -> list[dict[str, Any]]:
    """Call `experiment.run` by itself: one thread, its own random state, and nothing left changed afterwards.

    Raises:
        ValueError: a record cannot be written as JSON, or has a field that every record has.
    """
    dtype = torch.get_default_dtype()
    try:
        with one_thread(), own_random_state(task.seed, "cpu"), quiet():
            torch.manual_seed(task.seed)
            return _checked(experiment.run(task), task)
    finally:
        torch.set_default_dtype(dtype)


def _checked(records: Sequence[Mapping[str, Any]], task: Task) -> list[dict[str, Any]]:
    taken = {"kind", *task.identity()}
    found = []
    for record in records:
        if clash := taken & record.keys():
            raise ValueError(
                f"a record has the field {sorted(clash)[0]!r}, which the task gives; name it otherwise"
            )
        found.append(json.loads(json.dumps(dict(record), default=_plain)))
    return found


def _plain(value: Any) -> Any:
    """What numpy's scalars are as Python's; they come out of every reduction and json knows none but float64."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a record holds a {type(value).__name__}; expected text, numbers and lists")
