"""The OpenMP runtimes in this process, and how many threads a kernel may take from them."""

import os
import sys
from pathlib import Path

import torch

from batchnorm._state import PROCESS

__all__ = ["loaded_runtimes", "thread_count", "watch_forks"]

_NAMES = ("libgomp", "libiomp5", "libomp.", "libomp-", "libarmpl")
_FORKED_WITHOUT_EXEC = 0x40  # PF_FORKNOEXEC of Linux's include/linux/sched.h


def thread_count() -> int:
    """What a parallel region of ours asks for: `torch.get_num_threads()`, and 1 in a forked child.

    The pool that the parent had is gone in the child, and a parallel region there would wait for it forever.
    """
    return 1 if PROCESS.forked else torch.get_num_threads()


def watch_forks() -> None:
    """Notice that this process is a forked child, and make every child that it forks notice."""
    PROCESS.forked = _is_forked_child()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forked)


def loaded_runtimes() -> list[str]:
    """Paths of the OpenMP runtimes that this process has mapped; empty where the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    fields = [line.split(maxsplit=5) for line in lines]
    paths = {field[5] for field in fields if len(field) == 6}
    return sorted(path for path in paths if Path(path).name.startswith(_NAMES))


def _forked() -> None:
    PROCESS.forked = True


def _is_forked_child() -> bool:
    # The parent may have used torch's pool before it forked and this package been imported after: ask the system.
    if not sys.platform.startswith("linux"):
        return False
    try:
        after_the_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return bool(int(after_the_name[6]) & _FORKED_WITHOUT_EXEC)
