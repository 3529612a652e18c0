"""A table as the page and the terminal show it: a caption, a head, and rows of text."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Cell", "Table"]


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, what it sorts by where that is another, and whether it is set in bold."""

    text: str
    order: float | str | None = None
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first cell of a row is its heading. Columns after `text_columns` are numbers."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    text_columns: int = 1
    when: str = ""
