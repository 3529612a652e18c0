"""How the epochs of runs in other processes become visible while they train."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

__all__ = ["ProgressFile", "ProgressWriter"]

Line = dict[str, Any]


class ProgressWriter:
    """Appends lines to a file that all workers share; goes by value to other processes.

    A plain file rather than a queue: it needs no further process or thread, a worker that is killed
    in the middle of a line hurts nobody, and workers on other machines simply do not show. The reader
    creates it: a worker of a cluster that is still busy when its driver has stopped must not put it back
    into a folder that is being removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, line: Line) -> None:
        """Show `line`; progress is never worth failing for."""
        with contextlib.suppress(OSError), open(self.path, "ab", buffering=0, opener=_existing) as file:
            file.write(json.dumps(line).encode() + b"\n")


def _existing(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_CREAT)


class ProgressFile:
    """Reads what the writers have written since the last look."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "progress.jsonl"
        self.writer = ProgressWriter(self.path)
        self._offset = 0
        with contextlib.suppress(OSError):
            self.path.touch()

    def news(self) -> list[Line]:
        """The lines that came since the last call; an unfinished one waits for the next."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset, os.SEEK_SET)
                raw = file.read()
        except OSError:
            return []
        whole = raw[: raw.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = []
        for text in whole.splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(text))
        return lines
