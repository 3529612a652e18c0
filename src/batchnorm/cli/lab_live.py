"""How a survey of the lab shows its progress: the claims under way with the time left, plain lines, or nothing."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from batchnorm.cli.display import Display, Frame, bare_table, clock, say, suitable
from batchnorm.cli.lab_tables import SIGNS, value_words
from batchnorm.records.judged import Judged

__all__ = ["LiveView", "PlainLines", "Silent", "watcher"]

Line = dict[str, Any]


class Silent(Display):
    """Shows nothing, and counts."""

    wants_starts = False

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.total = 0
        self.done = 0
        self.verdicts = 0
        self.jobs = 1
        self.expected: dict[str, float] = {}
        self.missing: dict[str, int] = {}
        self.began = 0.0
        self.worked = 0.0

    def begin(self, folder: Path, batches: Sequence[Any], jobs: int, news: Any) -> None:  # noqa: ARG002
        """Take note of what is there and what will be done."""
        self.folder, self.jobs = folder, jobs
        self.total = sum(len(batch.tasks) for batch in batches)
        self.expected = {batch.experiment.name: batch.expected_seconds for batch in batches}
        self.missing = {batch.experiment.name: len(batch.missing) for batch in batches}
        self.done = self.total - sum(self.missing.values())
        self.began = time.monotonic()

    def finished(self, name: str, lines: list[Line]) -> None:  # noqa: ARG002
        """A run has ended and is on disk."""
        self.done += 1
        self.missing[name] -= 1
        self.worked += self.expected[name]

    def failed(self, name: str, error: Exception) -> None:  # noqa: ARG002
        """No further run of this experiment is started."""
        self.missing[name] = 0

    def judged(self, found: Judged) -> None:  # noqa: ARG002
        """A verdict is on disk."""
        self.verdicts += 1

    def left(self) -> float:
        """Seconds: what the experiments say their runs take, at the pace this machine has kept so far."""
        rest = sum(self.expected[name] * count for name, count in self.missing.items())
        elapsed = time.monotonic() - self.began
        # The start of the workers counts as a slow pace at first, so the experiments' word is kept for a while.
        pace = elapsed / self.worked if self.worked > 0 and elapsed > 10 else 1 / self.jobs
        return rest * pace


class PlainLines(Silent):
    """One line a verdict, for pipes and log files."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def begin(self, folder: Path, batches: Sequence[Any], jobs: int, news: Any) -> None:
        """Say what is going to be done."""
        super().begin(folder, batches, jobs, news)
        say(self.console, _opening(self, len(batches)))

    def failed(self, name: str, error: Exception) -> None:
        """Say what went wrong; the other experiments go on."""
        super().failed(name, error)
        say(self.console, f"failed: {error}")

    def judged(self, found: Judged) -> None:
        """Say what came out, and how much is still to come."""
        super().judged(found)
        say(self.console, f"{self.done}/{self.total}  {_ending(found)}{self._rest()}")

    def _rest(self) -> str:
        return f"; about {clock(self.left())} left" if any(self.missing.values()) else ""


class LiveView(PlainLines):
    """Verdicts as they come, below them the claims under way and the time left."""

    wants_starts = True
    frame: Frame

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.counts: dict[str, int] = {}
        self.running: dict[tuple[str, str], None] = {}
        self.ended: set[tuple[str, str]] = set()
        self.news: Any = None
        self.frame = Frame(console, self._parts)

    def begin(self, folder: Path, batches: Sequence[Any], jobs: int, news: Any) -> None:
        """Say what is going to be done, above the table."""
        with self.frame.lock:
            self.counts = {batch.experiment.name: len(batch.tasks) for batch in batches}
            self.news = news
            super().begin(folder, batches, jobs, news)

    def finished(self, name: str, lines: list[Line]) -> None:
        """Take the run out of the table."""
        with self.frame.lock:
            super().finished(name, lines)
            self.ended.add((name, lines[-1]["run"]))
            self.running.pop((name, lines[-1]["run"]), None)

    def failed(self, name: str, error: Exception) -> None:
        """Take the experiment out of the table, and say why above it."""
        with self.frame.lock:
            super().failed(name, error)
            self.running = {key: None for key in self.running if key[0] != name}

    def _parts(self) -> tuple[Table | None, str]:
        self._catch_up()
        return self._table() if self.running else None, self._status()

    def _catch_up(self) -> None:
        for line in self.news.news() if self.news is not None else ():
            key = line.get("claim"), line.get("run")
            if key not in self.ended and self.missing.get(key[0]):
                self.running[key] = None

    def _table(self) -> Table:
        table = bare_table()
        table.add_column("claim", no_wrap=True)
        table.add_column("runs", justify="right", no_wrap=True)
        table.add_column("under way", no_wrap=True, overflow="ellipsis")
        for name, run in self.running:
            count = self.counts[name]
            table.add_row(name, f"{count - self.missing[name]}/{count}", Text(run))
        return table

    def _status(self) -> str:
        if self.folder is None:
            return "Loading"
        elapsed = time.monotonic() - self.began
        return f"{self.done} of {self.total} runs, {clock(elapsed)} so far, about {clock(self.left())} left"


def watcher(console: Console, *, quiet: bool) -> Silent:
    """The display that suits: nothing, a live view on a terminal, or plain lines."""
    return suitable(console, quiet=quiet, silent=Silent, plain=PlainLines, live=LiveView)


def _opening(view: Silent, experiments: int) -> str:
    there = f", {view.done} of them done before" if view.done else ""
    claims = "1 claim" if experiments == 1 else f"{experiments} claims"
    time_left = f", about {clock(view.left())}" if any(view.missing.values()) else ""
    return f"{view.total} runs for {claims}{there}{time_left}; results in {view.folder}"


def _ending(found: Judged) -> str:
    assert found.verdict is not None
    sign, _ = SIGNS[found.verdict.verdict]
    number = f": {value_words(found.verdict)} {found.verdict.unit}" if found.verdict.value is not None else ""
    return f"{sign} {found.claim.name} {found.verdict.verdict}{number}"
