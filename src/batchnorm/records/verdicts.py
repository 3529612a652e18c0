"""`verdicts.jsonl`: one line a verdict, only ever appended to; the last line of a claim counts."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock

from batchnorm.errors import StoreError
from batchnorm.records.store import Line, Run, encode

__all__ = ["VERDICTS_NAME", "append_verdicts", "read_verdicts", "verdict_runs"]

VERDICTS_NAME = "verdicts.jsonl"
LOCK_NAME = ".verdicts.lock"
_SHARE = {"reproduced": 1.0, "partly": 0.5, "not reproduced": 0.0}


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
    return {line["claim"]: line for line in _lines(folder)}


def verdict_runs(folder: str | os.PathLike[str], claim: int) -> list[Run]:
    """The verdicts of a claim in the form of runs, which is what logs take: `verdict-1` is the first one.

    Args:
        folder: of the survey.
        claim: its number.

    Returns:
        A run for each line of the claim. It measured `verdict/value`, `verdict/low`, `verdict/high`, null where
        there is none, and `verdict/reproduced`: 1, 0.5 (partly) or 0. The rest of the line is what it was made with.
    """
    mine = [line for line in _lines(folder) if line["claim"] == claim]
    return [_as_run(line, f"verdict-{number}") for number, line in enumerate(mine, start=1)]


def _as_run(line: Line, name: str) -> Run:
    numbers = {f"verdict/{key}": line.get(key) for key in ("value", "low", "high")}
    share = _SHARE.get(str(line.get("verdict")))
    rest = {key: value for key, value in line.items() if key not in ("value", "low", "high")}
    header = {**rest, "run": name, "arm": "verdict"}
    return Run(header, measurements=[{**numbers, "verdict/reproduced": share}])


def _lines(folder: str | os.PathLike[str]) -> Iterator[Line]:
    path = Path(folder) / VERDICTS_NAME
    for text in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("claim"), int):
            yield line
