"""`verdicts.jsonl`: one line a verdict, only ever appended to; the last line of a claim counts."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock

from batchnorm.errors import StoreError
from batchnorm.records.store import Line, encode

__all__ = ["VERDICTS_NAME", "append_verdicts", "read_verdicts"]

VERDICTS_NAME = "verdicts.jsonl"
LOCK_NAME = ".verdicts.lock"


def append_verdicts(folder: str | os.PathLike[str], lines: Iterable[Line]) -> list[Line]:
    """Append those verdicts that differ from the last one of their claim, and wait until they are on disk.

    Args:
        folder: of the survey; it must exist.
        lines: verdicts, each with `claim`.

    Returns:
        The lines that were appended: none where every verdict stands already.

    Raises:
        StoreError: the file cannot be written.
    """
    path = Path(folder) / VERDICTS_NAME
    try:
        with FileLock(Path(folder) / LOCK_NAME):
            there = read_verdicts(folder)
            new = [line for line in lines if there.get(line["claim"]) != json.loads(encode(line))]
            if new:
                with open(path, "ab") as file:
                    torn = path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
                    file.write((b"\n" if torn else b"") + b"".join(encode(line) for line in new))
                    file.flush()
                    os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"cannot write '{path}': {error.strerror or error}") from None
    return new


def read_verdicts(folder: str | os.PathLike[str]) -> dict[int, Line]:
    """Return the last verdict of each claim; a line that was cut off while it was written is left out."""
    path = Path(folder) / VERDICTS_NAME
    found: dict[int, Line] = {}
    for text in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("claim"), int):
            found[line["claim"]] = line
    return found
