"""What a finished comparison shows: its table, and where the page lies."""

from pathlib import Path

import click
from rich.console import Console

from batchnorm.cli.table import arms_table, notes
from batchnorm.records import read
from batchnorm.records.summary import summarize

__all__ = ["show"]


def show(folder: Path, *, quiet: bool) -> None:
    """Write the page of a results folder, print its table unless `quiet`, and say where the page lies."""
    records = read(folder)
    # Late, because drawing needs packages of the extra `lab` that reading the records does not.
    from batchnorm.report import write

    path = write(folder)
    if not quiet:
        console = Console(highlight=False)
        summary = summarize(records)
        console.print()
        console.print(arms_table(summary, console.width))
        for note in notes(summary, records):
            console.print(note, markup=False)
        console.print()
    click.echo(f"Report: {path}")
