"""Loggers as readers of the records: the driver copies each finished run to them, once, inside the results folder."""

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from batchnorm.errors import BatchNormError, StoreError
from batchnorm.extras import require
from batchnorm.lab.settings import names
from batchnorm.records.store import Run

__all__ = ["KNOWN", "Logbook", "Logbooks", "chosen", "opened"]

KNOWN = ("tensorboard", "wandb", "mlflow")


class Logbook(Protocol):
    """One logger's folder."""

    def write(self, run: Run) -> None:
        """Copy the run; a run that is there already is left alone, and half of one is done again."""


class Logbooks:
    """Several of them; a failure is told with the logger's name, and no run is lost by it."""

    def __init__(self, books: dict[str, Logbook]) -> None:
        self._books = books

    def write(self, run: Run) -> None:
        """Copy a finished run.

        Raises:
            StoreError: a logger failed; the records are not touched.
        """
        for name, book in self._books.items():
            try:
                book.write(run)
            except BatchNormError:
                raise
            except Exception as error:
                said = " ".join(str(error).split())[:300]
                raise StoreError(
                    f"--log {name} failed for {run.name}: {type(error).__name__}: {said}; finished runs are kept: "
                    "repeat the command"
                ) from error

    def catch_up(self, runs: Iterable[Run]) -> None:
        """Copy the runs that are not there yet, such as those before an interruption."""
        for run in runs:
            self.write(run)


def chosen(value: str | Sequence[str]) -> tuple[str, ...]:
    """Read the value of `--log`.

    Args:
        value: names from `KNOWN`, as text separated by commas or as a sequence; an empty sequence for none.

    Raises:
        UsageError: an unknown name, or one twice.
        MissingExtraError: a logger is not installed.

    Example:
        >>> chosen(())
        ()
    """
    found = () if not isinstance(value, str) and not value else names("--log", value, KNOWN)
    for name in found:
        require(name)
    return found


def opened(loggers: Iterable[str], folder: Path, settings: dict[str, Any]) -> Logbooks:
    """The logbooks of a results folder.

    Args:
        loggers: from `chosen`.
        folder: the results folder; each logger has a folder of its name in it.
        settings: written with each run.
    """
    # Late, because each of these libraries takes a second to load and is installed where it is wanted only.
    modules = {name: importlib.import_module(f"batchnorm.lab.logs.{name}") for name in loggers}
    return Logbooks({name: module.Book(folder / name, settings) for name, module in modules.items()})
