"""What every display of a long command shares: its frame on a terminal, plain lines elsewhere, or nothing."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

__all__ = ["Display", "Frame", "bare_table", "clock", "say", "suitable"]

Shown = TypeVar("Shown", bound="Display")


class Frame:
    """The lines of a terminal that are drawn anew, four times a second, by a thread of rich's own.

    Args:
        console: where it stands.
        parts: gives the table, None where nothing is under way, and the line of status below it. It is called with
            `lock` held; whoever changes what it reads holds it too.
    """

    def __init__(self, console: Console, parts: Callable[[], tuple[Table | None, str]]) -> None:
        self.lock = threading.RLock()
        self._parts = parts
        self.live = Live(
            console=console, get_renderable=self.render, refresh_per_second=4, transient=True, screen=False
        )

    def render(self) -> RenderableType:
        """The frame as it stands."""
        with self.lock:
            table, words = self._parts()
            status = Text(words, style="dim")
            return status if table is None else Group(table, status)

    def open(self) -> None:
        """Begin to draw."""
        self.live.__enter__()

    def close(self) -> None:
        """Stop drawing, and leave the terminal as it was; a second time does nothing."""
        self.live.__exit__(None, None, None)


class Display:
    """A context in which a command shows how it gets on: with a frame while it lasts, where there is one."""

    frame: Frame | None = None

    def __enter__(self) -> Self:
        if self.frame is not None:
            self.frame.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.frame is not None:
            self.frame.close()


def suitable(
    console: Console,
    *,
    quiet: bool,
    silent: Callable[[], Shown],
    plain: Callable[[Console], Shown],
    live: Callable[[Console], Shown],
) -> Shown:
    """The display that suits: nothing, a live one on a terminal, or plain lines."""
    if quiet:
        return silent()
    return plain(console) if not console.is_terminal or console.is_dumb_terminal else live(console)


def say(console: Console, text: str) -> None:
    """Print a line, whatever its length; brackets in it are no markup."""
    console.print(text, markup=False, soft_wrap=True)


def bare_table() -> Table:
    """A table without lines, as every table of the terminal is."""
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")


def clock(seconds: float) -> str:
    """Whole seconds, also beyond a minute, since this counts rather than measures."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
