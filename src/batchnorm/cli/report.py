"""`batchnorm report DIR`: draw the page of a results folder again, from its records alone."""

from pathlib import Path

import click

from batchnorm.cli.outcome import show
from batchnorm.extras import require_lab

__all__ = ["command"]


@click.command("report")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--quiet", is_flag=True, help="Print only where the page lies.")
def command(folder: Path, quiet: bool) -> None:
    """Write DIR/report.html from DIR/results.jsonl; the same records give the same bytes."""
    require_lab()
    show(folder, quiet=quiet)
