"""`results.jsonl`: one JSON object a line, only ever appended to, read back after any interruption."""

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from batchnorm.errors import StoreError

__all__ = ["FILE_NAME", "SCHEMA", "Line", "Records", "Run", "Store", "encode", "read"]

FILE_NAME = "results.jsonl"
LOCK_NAME = ".lock"
SCHEMA = 1
RESUMED = b'{"kind":"resumed"}\n'
Line = dict[str, Any]


@dataclass
class Run:
    """The lines of one finished run; its `run` line is `header`, its last is `final`, the lab's are `measurements`."""

    header: Line
    epochs: list[Line] = field(default_factory=list)
    activations: list[Line] = field(default_factory=list)
    prediction: Line | None = None
    final: Line = field(default_factory=dict)
    measurements: list[Line] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The run's identity, unique in a folder."""
        return str(self.header["run"])

    @classmethod
    def of(cls, lines: Iterable[Line]) -> "Run":
        """The run that whole lines are of, from `run` to `final`."""
        (run,) = _gather(list(lines), Records({}))
        return run


@dataclass
class Records:
    """Everything one results folder says; `runs` holds finished runs only, in the order they ended."""

    config: Line
    data: Line | None = None
    samples: list[Line] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)


class Store:
    """The one writer of a results folder: holds its lock, appends whole groups of lines and fsyncs them.

    Args:
        folder: created if missing. It must be empty, or hold results of the same `settings`.
        config: the first line of the file; `config["settings"]` decides whether a folder can be continued.

    Raises:
        StoreError: the folder holds something else, results of other settings, is being written by
            another process, or cannot be written. Nothing in it is changed then.
    """

    def __init__(self, folder: str | os.PathLike[str], config: Line) -> None:
        self.folder = Path(folder)
        self._config = config
        self._lock = FileLock(self.folder / LOCK_NAME, timeout=0)
        self._fd: int | None = None
        self.records = Records(config)

    def __enter__(self) -> Self:
        path = self.folder / FILE_NAME
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _refuse_foreign_folder(self.folder)
            self._lock.acquire()
            self._open(path)
        except Timeout:
            raise StoreError(f"'{self.folder}' is being written by another process") from None
        except OSError as error:
            self.__exit__(None, None, None)
            raise StoreError(f"cannot write to '{self.folder}': {error.strerror or error}") from None
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _open(self, path: Path) -> None:
        exists = path.exists() and path.stat().st_size > 0
        torn = False
        if exists:
            raw = path.read_bytes()
            lines, torn = _parse(raw, path)
            if not lines:
                _refuse_foreign_beginning(raw, path)
            else:
                self.records = _group(lines, path)
                _refuse_other_settings(self.folder, self.records.config, self._config)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        if torn:
            self._write(b"\n" + RESUMED)
        elif exists and not raw.endswith(b"\n"):
            self._write(b"\n")
        if not exists or not lines:
            self.append([self._config])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        self._lock.release()

    def append(self, lines: Iterable[Line]) -> None:
        """Write `lines` together and wait until they are on disk; non-finite numbers become null."""
        self._write(b"".join(encode(line) for line in lines))

    def _write(self, data: bytes) -> None:
        if self._fd is None:
            raise StoreError(f"'{self.folder}' is not open for writing")
        try:
            while data:
                data = data[os.write(self._fd, data) :]
            if os.path.isfile(self.folder / FILE_NAME):
                os.fsync(self._fd)
        except OSError as error:
            raise StoreError(f"cannot write to '{self.folder}': {error.strerror or error}") from None


def read(folder: str | os.PathLike[str]) -> Records:
    """Read a results folder; runs that were cut off are left out.

    Args:
        folder: the folder that holds `results.jsonl`.

    Raises:
        StoreError: there is no such file, it is not one of ours, or a line in its middle is damaged.
    """
    path = Path(folder) / FILE_NAME
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read '{path}': {error.strerror or error}") from None
    lines, _ = _parse(raw, path)
    if not lines:
        raise StoreError(f"'{path}' holds no results yet")
    return _group(lines, path)


def encode(line: Line) -> bytes:
    """Return a line as it stands in the file; numbers that are not finite become null."""
    text = json.dumps(_finite(line), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A command may hold bytes that are not UTF-8 as lone surrogates; escaped, they are valid JSON.
    return text.encode(errors="backslashreplace") + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _parse(raw: bytes, path: Path) -> tuple[list[Line], bool]:
    """Return the lines without `resumed` ones, and whether the last one is torn.

    A torn line may stand at the end, or before the `resumed` line that closed it. Between the two there may
    be beginnings of `resumed` lines: closing can be interrupted as well.
    """
    texts = raw.split(b"\n")
    if texts[-1] == b"":
        texts.pop()
    lines: list[Line] = []
    torn_at: int | None = None
    for number, text in enumerate(texts, start=1):
        line = _decode(text)
        if line is None and torn_at is None:
            torn_at = number
        elif line is not None and line["kind"] == "resumed":
            torn_at = None
        elif torn_at is not None and (line is not None or not RESUMED.startswith(text)):
            raise StoreError(f"'{path}' is damaged: line {torn_at} is not a record")
        elif line is not None:
            lines.append(line)
    return lines, torn_at is not None


def _decode(text: bytes) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("kind"), str) else None


def _group(lines: list[Line], path: Path) -> Records:
    if lines[0]["kind"] != "config" or not isinstance(lines[0].get("settings"), dict):
        raise StoreError(f"'{path}' does not start with a config line: it is not a results file")
    if lines[0].get("schema") != SCHEMA:
        found = lines[0].get("schema")
        raise StoreError(f"'{path}' has schema {found!r}; this version reads schema {SCHEMA}")
    records = Records(lines[0])
    for run in _gather(lines[1:], records):
        records.runs.setdefault(run.name, run)
    return records


def _gather(lines: list[Line], records: Records) -> Iterator[Run]:
    current: Run | None = None
    for line in lines:
        kind = line["kind"]
        if kind == "data":
            records.data, records.samples = line, []
        elif kind == "sample":
            records.samples.append(line)
        elif kind == "run":
            current = Run(header=line)
        elif current is None or line.get("run") != current.name:
            continue
        elif kind == "epoch":
            current.epochs.append(line)
        elif kind == "activation":
            current.activations.append(line)
        elif kind == "measurement":
            current.measurements.append(line)
        elif kind == "prediction":
            current.prediction = line
        elif kind == "final":
            current.final = line
            yield current
            current = None


def _refuse_foreign_folder(folder: Path) -> None:
    if (folder / FILE_NAME).exists():
        return
    foreign = sorted(entry.name for entry in folder.iterdir() if entry.name != LOCK_NAME)
    if foreign:
        raise StoreError(f"'{folder}' is not empty and holds no results ('{foreign[0]}' is there)")


def _refuse_foreign_beginning(raw: bytes, path: Path) -> None:
    """A file without a whole line is ours only if it is the beginning of a config line."""
    ours, first = b'{"kind":"config",', raw.partition(b"\n")[0]
    if not (first.startswith(ours) or ours.startswith(first)):
        raise StoreError(f"'{path}' does not start with a config line: it is not a results file")


def _refuse_other_settings(folder: Path, there: Line, here: Line) -> None:
    old, new = there["settings"], json.loads(encode(here["settings"]))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            raise StoreError(
                f"'{folder}' holds results of another configuration: "
                f"{key} is {old.get(key)!r} there and {new.get(key)!r} here; choose another --out"
            )
