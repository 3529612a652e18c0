"""How a comparison shows its progress: a live table, plain lines, or nothing."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from batchnorm.cli.display import Display, Frame, bare_table, clock, say, suitable
from batchnorm.records.identity import identity
from batchnorm.records.wording import duration, number, percent, rate

__all__ = ["LiveTable", "PlainLines", "Silent", "observer"]

Line = dict[str, Any]
_NARROW = 60  # columns; below that placement and rate give way to loss and accuracy


class Silent(Display):
    """Shows nothing, and counts."""

    wants_epochs = False

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.total = 0
        self.done = 0

    def begin(self, folder: Path, total: int, done: int, epochs: int, news: Any) -> None:  # noqa: ARG002
        """`done` of `total` runs were there already."""
        self.folder, self.total, self.done = folder, total, done

    def finished(self, lines: list[Line]) -> None:  # noqa: ARG002
        """A run has ended and is on disk."""
        self.done += 1

    def extended(self, tasks: Sequence[Any], missing: int) -> None:
        """Further runs follow, `missing` of which are still to be done."""
        self.total += len(tasks)
        self.done += len(tasks) - missing

    def noted(self, text: str) -> None:
        """Something that changes no number and that a person should know."""


class PlainLines(Silent):
    """One line a finished run, for pipes and log files."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def begin(self, folder: Path, total: int, done: int, epochs: int, news: Any) -> None:
        """Say what is going to be done."""
        super().begin(folder, total, done, epochs, news)
        say(self.console, _opening(folder, total, done))

    def finished(self, lines: list[Line]) -> None:
        """Say how the run ended."""
        super().finished(lines)
        say(self.console, f"{self.done}/{self.total}  {_ending(lines)}")

    def extended(self, tasks: Sequence[Any], missing: int) -> None:
        """Say why there are more runs now."""
        super().extended(tasks, missing)
        say(self.console, _extension(tasks))

    def noted(self, text: str) -> None:
        """Say it."""
        say(self.console, f"Note: {text}")


class LiveTable(Silent):
    """A table of the runs that are under way, with the time that is left."""

    wants_epochs = True
    frame: Frame

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self.epochs = 1
        self.news: Any = None
        self.running: dict[str, Line] = {}
        self.ended: set[str] = set()
        self.began: float | None = None
        self.work = 0.0
        self.frame = Frame(console, self._parts)

    def begin(self, folder: Path, total: int, done: int, epochs: int, news: Any) -> None:
        """Say what is going to be done, above the table."""
        super().begin(folder, total, done, epochs, news)
        self.epochs, self.news = epochs, news
        say(self.console, _opening(folder, total, done))

    def finished(self, lines: list[Line]) -> None:
        """Take the run's line out of the table."""
        with self.frame.lock:
            super().finished(lines)
            name = lines[-1]["run"]
            self.ended.add(name)
            self.running.pop(name, None)
            self.work += 1.0

    def extended(self, tasks: Sequence[Any], missing: int) -> None:
        """Say above the table why there are more runs now."""
        with self.frame.lock:
            super().extended(tasks, missing)
        say(self.console, _extension(tasks))

    def noted(self, text: str) -> None:
        """Say it above the table."""
        say(self.console, f"Note: {text}")

    def _parts(self) -> tuple[Table | None, str]:
        self._catch_up()
        return self._table() if self.running else None, self._status()

    def _catch_up(self) -> None:
        for line in self.news.news() if self.news is not None else ():
            if self.began is None:
                self.began = time.monotonic()
            if line.get("run") not in self.ended:
                self.running[line["run"]] = line

    def _table(self) -> Table:
        table = bare_table()
        narrow = self.console.width < _NARROW
        table.add_column("arm", min_width=0 if narrow else 8)
        if not narrow:
            table.add_column("placement", min_width=9)
            table.add_column("rate", justify="right", min_width=6)
        for head, width in (("seed", 4), ("epoch", 5), ("loss", 6), ("accuracy", 8)):
            table.add_column(head, justify="right", min_width=width)
        for line in self.running.values():
            table.add_row(
                Text(line["arm"], style=identity(line["arm"]).colour),
                *(() if narrow else (line["placement"] or "", rate(line["lr"]))),
                str(line["seed"]),
                f"{line['epoch']}/{self.epochs}",
                number(line.get("train_loss")),
                percent(line.get("val_accuracy")),
            )
        return table

    def _status(self) -> str:
        if self.folder is None:
            return "Loading the data and trying the networks"
        text = f"{self.done} of {self.total} runs"
        left = self._left()
        if self.began is None:
            return f"{text}, starting"
        elapsed = f"{text}, {clock(time.monotonic() - self.began)} so far"
        return elapsed if left is None else f"{elapsed}, about {clock(left)} left"

    def _left(self) -> float | None:
        """Seconds, at the pace since the first run began; epochs under way count as parts of a run."""
        under_way = sum(line["epoch"] / self.epochs for line in self.running.values())
        worked = self.work + under_way
        if self.began is None or worked < 0.5:
            return None
        pace = (time.monotonic() - self.began) / worked
        return max(self.total - self.done - under_way, 0.0) * pace


def observer(console: Console, *, quiet: bool) -> Silent:
    """The display that suits: nothing, a live table on a terminal, or plain lines."""
    return suitable(console, quiet=quiet, silent=Silent, plain=PlainLines, live=LiveTable)


def _opening(folder: Path, total: int, done: int) -> str:
    there = f", {done} of them done before" if done else ""
    return f"{total} runs{there}; results in {folder}"


def _ending(lines: list[Line]) -> str:
    final = lines[-1]
    place = f" {final['placement']}" if final["placement"] else ""
    head = f"{final['arm']}{place}, rate {rate(final['lr'])}, seed {final['seed']}:"
    if final["diverged"]:
        return f"{head} diverged in epoch {final['diverged_at']}"
    return (
        f"{head} test accuracy {percent(final['test_accuracy'])}, loss {number(final['test_loss'])}, "
        f"{duration(final['train_seconds'])}"
    )


def _extension(tasks: Sequence[Any]) -> str:
    columns = dict.fromkeys((task.arm, task.placement, task.lr) for task in tasks)
    parts = [f"{arm}{f' {place}' if place else ''} at {rate(lr)}" for arm, place, lr in columns]
    return f"Best rate at the edge of the grid, so it is extended: {', '.join(parts)}"
