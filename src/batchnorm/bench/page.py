"""`bench.html`: the records of one run as a page in the house's look."""

import os
from pathlib import Path
from typing import Any

from jinja2 import PackageLoader

from batchnorm.bench.digest import (
    COMPILED_HEAD,
    STEP_HEAD,
    SUMMARY_HEAD,
    TARGET_HEAD,
    answer,
    compiled_rows,
    machine_words,
    misses,
    not_run,
    step_rows,
    summary_rows,
    target_rows,
)
from batchnorm.bench.figures import LOOKS, controls, limit_figure, ratio_figure
from batchnorm.bench.results import Results
from batchnorm.report.assets import plotly_script, stylesheet, text_asset
from batchnorm.report.figure import Table, script_json
from batchnorm.report.filling import fill
from batchnorm.report.writing import write_whole

__all__ = ["FILE_NAME", "render", "write"]

FILE_NAME = "bench.html"


def render(results: Results) -> str:
    """Draw the page: the same records give the same bytes.

    Args:
        results: at least one case of them measured.

    Returns:
        A whole HTML document that asks the network for nothing.
    """
    return fill("bench.html", _context(results), PackageLoader("batchnorm.bench"))


def write(results: Results, folder: str | os.PathLike[str]) -> Path:
    """Write the page into `folder`, whole or not at all, and return its path."""
    return write_whole(Path(folder) / FILE_NAME, render(results).encode())


def _context(results: Results) -> dict[str, Any]:
    chosen = controls(results)
    return {
        "answer": answer(results),
        "misses": misses(results),
        "not_run": not_run(results),
        "machine": machine_words(results.machine),
        "date": results.machine.get("date", ""),
        "command": results.header.get("command", "batchnorm bench"),
        "targets": Table("Targets", TARGET_HEAD, target_rows(results)),
        "means": [
            Table(f"{name}: geometric means over shapes", SUMMARY_HEAD, rows)
            for name, rows in summary_rows(results).items()
        ],
        "compiled": Table(
            "torch.compile: e eager, c compiled; geometric means", COMPILED_HEAD, compiled_rows(results)
        ),
        "steps": Table("Training steps of whole networks", STEP_HEAD, step_rows(results)),
        "facts": Table(
            "The machine and what ran on it",
            ("what", "value"),
            [(key, str(value)) for key, value in results.machine.items()],
        ),
        "chosen": chosen,
        "figures": [ratio_figure(results, chosen), limit_figure(results, chosen)],
        "dark_colours": script_json({look.colour: look.dark for look in LOOKS.values()}),
        "style": stylesheet(),
        "plotly": plotly_script(),
        "script": text_asset("page.js"),
    }
