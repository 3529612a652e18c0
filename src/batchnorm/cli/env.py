"""`batchnorm env`: what is installed, which backend computes, and why."""

import json

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["command"]


@click.command("env")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> None:
    """Say what is installed, which backend serves tensors on the CPU, and why."""
    from batchnorm.installation import env

    found = env().to_dict()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in found.items():
        if name != "warnings":
            table.add_row(name.replace("_", " "), Text(_shown(value)))
    Console().print(table)
    for warning in found["warnings"]:
        click.echo(f"warning: {warning}", err=True)


def _shown(value: str | int | tuple[str, ...] | None) -> str:
    if value is None or value == ():
        return "-"
    return ", ".join(value) if isinstance(value, tuple) else str(value)
