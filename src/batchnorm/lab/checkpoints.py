"""What a long run keeps of itself on disk after each epoch, so that it goes on from there after any interruption."""

import contextlib
import hashlib
import io
import json
import os
import re
import time
import warnings
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["AFTER", "APART", "FOLDER_NAME", "Checkpoint", "Checkpoints"]

State = dict[str, Any]

FOLDER_NAME = "checkpoints"
# Seconds. A run that takes less is done again faster than anybody notices, and its weights need not touch the disk.
AFTER = 120.0
# Seconds. Epochs that are shorter share a checkpoint: writing would else take longer than training.
APART = 1.0
_FORMAT = 1


@dataclass(frozen=True)
class Checkpoints:
    """Where the runs of a results folder keep their state; goes by value to the processes that train.

    Only the driver makes and empties the folder. A worker that does not see it, on another machine without a shared
    file system, writes nothing: its runs start again where they would have gone on.

    Args:
        folder: the folder of the checkpoints.
        settings: digest of what decides the numbers; a checkpoint of other settings is not used.
        after: seconds from the start of a run to its first checkpoint. Default `AFTER`.
        apart: least seconds between two checkpoints of a run. Default `APART`.

    Example:
        >>> Checkpoints.beside("runs", {"epochs": 3}).folder.as_posix()
        'runs/checkpoints'
    """

    folder: Path
    settings: str
    after: float = AFTER
    apart: float = APART

    @classmethod
    def beside(
        cls,
        results: str | os.PathLike[str],
        settings: Mapping[str, Any],
        after: float = AFTER,
        apart: float = APART,
    ) -> "Checkpoints":
        """Those of a results folder, in a folder inside it."""
        text = json.dumps(settings, sort_keys=True, default=str)
        # Absolute, because a worker on another machine has a working directory of its own.
        folder = Path(os.path.abspath(results)) / FOLDER_NAME
        return cls(folder, hashlib.sha256(text.encode()).hexdigest(), after, apart)

    @contextlib.contextmanager
    def kept(self, finished: Container[str]) -> Iterator[None]:
        """Make the folder for as long as runs are done; afterwards it is gone unless a run was cut off.

        Args:
            finished: names of runs whose lines are in the store: what is left of them is removed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in [*self.folder.glob("*.tmp"), *self.folder.glob("*.note")]:
            path.unlink(missing_ok=True)
        for path in self.folder.glob("*.ckpt"):
            if _run_in(path) in finished:
                path.unlink(missing_ok=True)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def of_run(self, name: str, *, due: bool = False) -> "Checkpoint":
        """That of one run, whose clock starts now; `due` asks for one after the next epoch already."""
        return Checkpoint(self, name, due=due)

    def notes(self) -> list[str]:
        """What workers had to say since the last call: checkpoints that could not be used or written."""
        found = []
        for path in sorted(self.folder.glob("*.note")):
            with contextlib.suppress(OSError, ValueError):
                found.append(path.read_text(encoding="utf-8"))
                path.unlink()
        return found


class Checkpoint:
    """The state of one run on disk: one file, replaced as a whole."""

    def __init__(self, group: Checkpoints, run: str, *, due: bool) -> None:
        self._group = group
        self._run = run
        # Readable, and another name for each run whatever characters it has.
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", run)[:100]
        self._stem = f"{readable}-{hashlib.sha256(run.encode()).hexdigest()[:8]}"
        self.path = group.folder / f"{self._stem}.ckpt"
        self._next = time.monotonic() + (0.0 if due else group.after)

    def due(self) -> bool:
        """Whether it is time to write one."""
        return time.monotonic() >= self._next and self._group.folder.is_dir()

    def load(self) -> State | None:
        """The state that was saved last, or None; one that cannot be used is removed, with a note."""
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.refuse(f"cannot be read: {error.strerror or error}")
            return None
        head, _, rest = raw.partition(b"\n")
        digest, _, payload = rest.partition(b"\n")
        if hashlib.sha256(payload).hexdigest().encode() != digest or head != self._run.encode():
            self.refuse("is damaged")
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what torch remarks on a strange file, our note says
                saved = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        except Exception as error:  # a file of ours that this torch cannot read, or of somebody else
            self.refuse(f"cannot be loaded: {_line(error)}")
            return None
        whole = isinstance(saved, dict) and isinstance(saved.get("state"), dict)
        if not whole or (saved.get("format"), saved.get("run")) != (_FORMAT, self._run):
            self.refuse("is not one of this run")
            return None
        if saved.get("settings") != self._group.settings:
            self.refuse("was made with other settings")
            return None
        state: State = saved["state"]
        return state

    def save(self, state: State) -> None:
        """Replace what is on disk by `state` and wait until it is there; a failure is noted and the run goes on."""
        try:
            payload = io.BytesIO()
            content = {"format": _FORMAT, "run": self._run, "settings": self._group.settings, "state": state}
            torch.save(content, payload)
            raw = payload.getvalue()
            head = self._run.encode() + b"\n" + hashlib.sha256(raw).hexdigest().encode() + b"\n"
            _replace(self.path, self._temporary(), head + raw)
        except Exception as error:
            with contextlib.suppress(OSError):
                self._temporary().unlink(missing_ok=True)
            self._note(f"A checkpoint of {self._run} cannot be written: {_line(error)}")
        self._next = time.monotonic() + self._group.apart

    def refuse(self, why: str) -> None:
        """Remove what is on disk and leave a note for the driver: the run starts again."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        self._note(f"The checkpoint of {self._run} {why}; the run starts again")

    def remove(self) -> None:
        """Remove what is on disk: the run's lines are in the store."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _temporary(self) -> Path:
        # Its process in the name: a worker whose driver was killed may still be writing when the next one starts.
        return self._group.folder / f"{self._stem}.{os.getpid()}.tmp"

    def _note(self, text: str) -> None:
        with contextlib.suppress(OSError):
            (self._group.folder / f"{self._stem}.note").write_text(text, encoding="utf-8")


def _run_in(path: Path) -> str | None:
    """The run that a checkpoint is of, from its first line; None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.readline(4096).rstrip(b"\n").decode(errors="replace")
    except OSError:
        return None


def _replace(path: Path, temporary: Path, content: bytes) -> None:
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    # The new name is on disk only when its folder is; not every system lets a folder be opened.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _line(error: Exception) -> str:
    text = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
