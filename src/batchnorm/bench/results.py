"""`bench.jsonl`: one JSON object a line, appended as it is measured, so that an interrupted run goes on."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from batchnorm.bench.summary import is_disturbed
from batchnorm.errors import StoreError

__all__ = [
    "FILE_NAME",
    "SCHEMA",
    "Results",
    "append",
    "open_results",
    "read_results",
    "refuse_another_machine",
]

FILE_NAME = "bench.jsonl"
SCHEMA = 1
Line = dict[str, Any]


class Results:
    """What a file holds: the machine, the settings, one record a case and phase, and end-to-end steps."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.header: Line = {}
        self._cases: dict[tuple[str, str], Line] = {}
        self._steps: dict[str, Line] = {}
        for line in lines:
            self.add(line)

    def add(self, line: Line) -> None:
        """Take in one line; what was measured again takes the place of the first."""
        kind = line.get("kind")
        if kind == "bench":
            self.header = line
        elif kind == "case":
            self._cases[line["case"], line["phase"]] = line
        elif kind == "step":
            self._steps[line["case"]] = line

    @property
    def cases(self) -> list[Line]:
        """One record a case and phase."""
        return list(self._cases.values())

    @property
    def steps(self) -> list[Line]:
        """One record a training step."""
        return list(self._steps.values())

    @property
    def machine(self) -> Line:
        """What `machine.environment` found."""
        machine: Line = self.header.get("machine", {})
        return machine

    def done(self) -> set[tuple[str, str]]:
        """(case, phase) of what has been measured while the cores were free."""
        return {key for key, line in self._cases.items() if not is_disturbed(line)}


def read_results(path: str | os.PathLike[str]) -> Results:
    """Read a file of results, or the one in a folder; an unfinished last line is left out.

    Raises:
        StoreError: there is no such file, or it is not one of ours.
    """
    file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise StoreError(f"cannot read '{file}': {reason}") from None
    lines = []
    *whole, _ = text.split("\n")
    for number, raw in enumerate(whole, start=1):
        try:
            line = json.loads(raw)
        except ValueError:
            raise StoreError(f"'{file}', line {number}: not JSON") from None
        if not isinstance(line, dict):
            raise StoreError(f"'{file}', line {number}: not a record")
        lines.append(line)
    if not lines or lines[0].get("kind") != "bench" or lines[0].get("schema") != SCHEMA:
        raise StoreError(f"'{file}' does not begin as results of batchnorm bench do (schema {SCHEMA})")
    return Results(lines)


def open_results(folder: str | os.PathLike[str], header: Line, identity: Iterable[str]) -> Results:
    """Begin a file in `folder`, or go on with the one that is there.

    Args:
        folder: created if missing.
        header: the first line; what is there must agree with its settings, and with its machine in `identity`.
        identity: the fields of the machine that decide.

    Raises:
        StoreError: the file cannot be written, or belongs to another machine, build or command.
    """
    path = Path(folder) / FILE_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or not path.stat().st_size:
            append(folder, [header])
            return Results([header])
        results = read_results(path)
        _drop_unfinished(path)
    except OSError as error:
        raise StoreError(f"cannot write to '{folder}': {error.strerror or error}") from None
    refuse_another_machine(path, results.machine, header["machine"], identity)
    if results.header.get("settings") != header["settings"]:
        raise StoreError(
            f"'{path}' belongs to other settings: {results.header.get('settings')}; choose another --out"
        )
    return results


def refuse_another_machine(
    path: str | os.PathLike[str], before: Line, now: Line, identity: Iterable[str]
) -> None:
    """Refuse to mix what was measured on different machines or builds.

    Raises:
        StoreError: two machines differ in a field of `identity`.
    """
    for name in identity:
        if before.get(name) != now.get(name):
            raise StoreError(
                f"'{path}' was measured with {name} {before.get(name)!r}, this run has {now.get(name)!r}; "
                "choose another --out"
            )


def append(folder: str | os.PathLike[str], lines: Iterable[Line]) -> None:
    """Write lines to the file in `folder`, and wait until they are on disk; non-finite numbers become null."""
    text = "".join(json.dumps(_finite(line), ensure_ascii=True, allow_nan=False) + "\n" for line in lines)
    with open(Path(folder) / FILE_NAME, "a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _drop_unfinished(path: Path) -> None:
    raw = path.read_bytes()
    if not raw.endswith(b"\n"):
        with open(path, "r+b") as file:
            file.truncate(raw.rfind(b"\n") + 1)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
