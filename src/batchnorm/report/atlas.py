"""The atlas: every claim with its source, our number and its verdict; and the files of a whole survey."""

import os
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from batchnorm.records.judged import Judged
from batchnorm.records.verdict import NOT_REPRODUCED, PARTLY, REPRODUCED
from batchnorm.records.wording import duration
from batchnorm.report.assets import plotly_file, stylesheet, text_asset
from batchnorm.report.claim_page import ATLAS_NAME, PLOTLY_NAME, Entry, page_name, render_claim
from batchnorm.report.filling import fill
from batchnorm.report.phrases import listed
from batchnorm.report.writing import write_whole

__all__ = ["render_atlas", "write"]


def write(folder: str | os.PathLike[str], judged: Sequence[Judged]) -> Path:
    """Write a page for each claim that was run, the atlas, and the script that all of them share.

    Args:
        folder: of the survey.
        judged: all claims, in the order of their numbers.

    Returns:
        The path of the atlas.

    Raises:
        StoreError: a file cannot be written.
    """
    there = Path(folder)
    script = plotly_file()
    if not (there / PLOTLY_NAME).is_file() or (there / PLOTLY_NAME).read_bytes() != script:
        write_whole(there / PLOTLY_NAME, script)
    for each in judged:
        if each.planned:
            write_whole(there / page_name(each), render_claim(each).encode())
    return write_whole(there / ATLAS_NAME, render_atlas(judged).encode())


def render_atlas(judged: Sequence[Judged]) -> str:
    """Draw the page that lists all claims: the same records give the same bytes.

    Args:
        judged: all claims, in the order of their numbers.

    Returns:
        A whole HTML document that asks the network for nothing.
    """
    run = [each for each in judged if each.planned]
    return fill(
        "atlas.html",
        {
            "entries": [(Entry(each), page_name(each)) for each in judged],
            "lead": _lead(run),
            "against": [Entry(each) for each in run if each.verdict and each.verdict.verdict != REPRODUCED],
            "quick": [each for each in run if each.quick],
            "run": run,
            "seconds": duration(sum(each.seconds for each in run)),
            "command": next((str(each.config["command"]) for each in run if each.config.get("command")), ""),
            "dark_colours": "{}",
            "style": stylesheet(),
            "script": text_asset("page.js"),
        },
    )


def _lead(run: Sequence[Judged]) -> Markup:
    verdicts = [each.verdict.verdict for each in run if each.verdict is not None]
    if not verdicts:
        return Markup("No claim has been judged yet.")
    parts = [
        f"{verdicts.count(kind)} {words}"
        for kind, words in (
            (REPRODUCED, "reproduced"),
            (PARTLY, "reproduced in part"),
            (NOT_REPRODUCED, "not reproduced"),
        )
        if kind in verdicts
    ]
    claims = "1 claim" if len(verdicts) == 1 else f"{len(verdicts)} claims"
    return Markup("Of {} run again here, <strong>{}</strong>.").format(claims, listed(parts))
