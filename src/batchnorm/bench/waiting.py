"""How long this process's threads waited for a core: what else runs on the machine, seen from inside."""

from pathlib import Path

__all__ = ["waited"]

_TASKS = Path("/proc/self/task")


def waited() -> float | None:
    """Seconds that the threads of this process were ready to run and had no core; None where Linux does not tell.

    Threads of a parallel region meet at its end, so one that waits for a time slice makes a call of microseconds last
    milliseconds.
    """
    total = 0
    try:
        for task in _TASKS.iterdir():
            total += int((task / "schedstat").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return total * 1e-9
