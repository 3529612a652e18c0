"""What a finished comparison shows: its table, what it found, and where the page lies."""

from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console

from batchnorm.cli.table import arms_table
from batchnorm.records import Records, read
from batchnorm.records.summary import summarize

__all__ = ["show"]

_TEXT_WIDTH = 100


def show(folder: Path, *, quiet: bool) -> None:
    """Write the page of a results folder, print what it found unless `quiet`, and say where the page lies.

    Args:
        folder: holds `results.jsonl`.
        quiet: print the last line only.
    """
    records = read(folder)
    # Late, because drawing needs packages of the extra `lab` that reading the records does not.
    from batchnorm.report import write

    path = write(folder)
    if not quiet:
        console = Console(highlight=False)
        console.print()
        console.print(arms_table(summarize(records), console))
        for paragraph in _paragraphs(records):
            console.print()
            console.print(paragraph, markup=False, width=min(console.width, _TEXT_WIDTH))
        console.print()
    click.echo(f"Report: {path}")


def _paragraphs(records: Records) -> Iterator[str]:
    """The page's own answer, so that terminal and page never say different things."""
    from batchnorm.report.answer import answer
    from batchnorm.report.view import look

    found = answer(look(records))
    yield " ".join([found.lead.striptags(), *found.more])
    yield from found.warnings
    yield found.limits
