"""The whole page: sections from records, filled into one template, small enough to send by mail."""

import os
from pathlib import Path
from typing import Any

from batchnorm.records import Records, read
from batchnorm.report import (
    answer,
    confusion,
    cost,
    curves,
    distributions,
    fairness,
    histograms,
    provenance,
    sensitivity,
)
from batchnorm.report import predictions as table
from batchnorm.report.assets import plotly_script, stylesheet, table_widget, text_asset
from batchnorm.report.drawing import dark_colours
from batchnorm.report.figure import script_json
from batchnorm.report.filling import fill
from batchnorm.report.phrases import meanings
from batchnorm.report.view import FULL, Detail, View, look
from batchnorm.report.writing import write_whole

__all__ = ["FILE_NAME", "MAX_BYTES", "render", "write"]

FILE_NAME = "report.html"
MAX_BYTES = 8_000_000
# Tried in this order until the page is small enough; the page says what it leaves out.
DETAILS = (
    FULL,
    Detail(400, 40, 16),
    Detail(300, 40, 12),
    Detail(200, 30, 10),
    Detail(100, 20, 6),
    Detail(40, 12, 4),
    Detail(0, 6, 1),
)


def render(records: Records) -> str:
    """Draw one page from records: the same records give the same bytes.

    Args:
        records: as `batchnorm.records.read` returns them; they may be those of an interrupted comparison.

    Returns:
        A whole HTML document that asks the network for nothing, at most 8 MB as UTF-8 as long as the records
        allow it.
    """
    page = ""
    for detail in DETAILS:
        page = _render(look(records, detail))
        if len(page.encode()) <= MAX_BYTES:
            break
    return page


def write(folder: str | os.PathLike[str]) -> Path:
    """Read the records of `folder` and write its `report.html`, whole or not at all.

    Args:
        folder: holds `results.jsonl`.

    Returns:
        The path of the page.

    Raises:
        StoreError: the records cannot be read, or the page cannot be written.
    """
    return write_whole(Path(folder) / FILE_NAME, render(read(folder)).encode())


def _render(view: View) -> str:
    return fill("page.html", _context(view))


def _context(view: View) -> dict[str, Any]:
    names = distributions.sites(view)
    return {
        "view": view,
        "drawn": any(arm.finished for arm in view.arms),
        "reduced": view.detail != FULL,
        "answer": answer.answer(view),
        "arms_table": answer.arms_table(view),
        "meanings": meanings(arm.summary.arm for arm in view.arms),
        "checks": fairness.checks(view),
        "rates_table": fairness.rates_table(view),
        "curves": [curves.accuracy_figure(view), curves.loss_figure(view)],
        "curve_controls": curves.CONTROLS,
        "rates": sensitivity.sensitivity_figure(view),
        "sites": names,
        "site_figures": _site_figures(view, names),
        "predictions": table.predictions(view),
        "kinds": table.KINDS,
        "confusion": confusion.confusion_figures(view),
        "cost": cost.cost_figure(view),
        "cost_table": cost.cost_table(view),
        "command": provenance.command(view),
        "facts": [
            provenance.facts_table(view),
            provenance.versions_table(view),
            provenance.settings_table(view),
        ],
        "dark_colours": script_json(dark_colours(view.arms)),
        "style": stylesheet(),
        "script": text_asset("page.js"),
        "plotly": plotly_script(),
        "widget": table_widget(),
    }


def _site_figures(view: View, names: list[str]) -> list[Any]:
    if not names:
        return []
    return [distributions.percentile_figure(view, names), histograms.histogram_figure(view, names)]
