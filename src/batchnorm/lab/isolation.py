"""Keep a run from being changed by its process, and the process from being changed by a run."""

import contextlib
import logging
import random
import threading
import warnings
from collections.abc import Iterator

import numpy as np
import torch

__all__ = ["deterministic", "one_thread", "own_random_state", "quiet"]

# Fabric speaks through whichever of the two was loaded last.
_TALKATIVE = ("lightning.fabric", "lightning.pytorch")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one CPU thread: results then depend neither on the machine's cores nor on `--jobs`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def own_random_state(seed: int, device: str) -> Iterator[None]:
    """Seed every generator that a model may draw from, and put all of them back afterwards."""
    python, array = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if device == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            random.seed(seed)
            np.random.seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)


@contextlib.contextmanager
def deterministic(device: str) -> Iterator[None]:
    """On a CUDA device choose the kernels that give the same bits each time."""
    if device != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back the libraries' warnings and remarks, which would tear the progress display.

    Levels and filters belong to the process. A cluster's worker may run tasks in several threads: the first that
    comes in silences, the last that leaves puts back what the first one found.
    """
    _silence.enter()
    try:
        yield
    finally:
        _silence.leave()


class _Silence:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._restore = contextlib.ExitStack()

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._begin()
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._restore.close()

    def _begin(self) -> None:
        for name in _TALKATIVE:
            logger = logging.getLogger(name)
            self._restore.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        self._restore.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")


_silence = _Silence()
