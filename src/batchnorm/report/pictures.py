"""The charts of a survey as picture files, for documents and slides: the same records, the same drawing."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchnorm.errors import StoreError, UsageError
from batchnorm.records.charts import Chart
from batchnorm.records.judged import Judged
from batchnorm.report.drawing import dark_colours
from batchnorm.report.exporting import FORMATS, export
from batchnorm.report.framing import THEMES, Framed, framed
from batchnorm.report.plots import Look, chart_figure, looks_of
from batchnorm.report.svg import tidy
from batchnorm.report.writing import write_whole

__all__ = ["chosen", "write_pictures"]


@dataclass(frozen=True)
class _Picture:
    """A chart of a claim; its name is that of its files."""

    judged: Judged
    chart: Chart

    @property
    def name(self) -> str:
        return f"{self.judged.claim.name}-{self.chart.name}"


def write_pictures(
    folder: str | os.PathLike[str],
    judged: Sequence[Judged],
    names: Iterable[str] = (),
    *,
    formats: Sequence[str] = ("svg",),
    themes: Sequence[str] = ("light",),
) -> list[Path]:
    """Write charts as `NAME-CHART.svg`, `NAME-CHART.png` and, for dark pages, `NAME-CHART-dark.svg`.

    An SVG carries its finding as title and its caption as description. The same records give the same bytes
    with the same plotly, browser and fonts.

    Args:
        folder: where to; it is made.
        judged: claims of a survey, from `batchnorm.lab.judge_folder`.
        names: of claims (all their charts) or pictures (`layer-norm-axes`); none takes every chart that there is.
        formats: of `svg` and `png`; a PNG has two pixels for each of the picture's.
        themes: of `light` and `dark`.

    Returns:
        The paths, in the order of the claims' numbers.

    Raises:
        UsageError: a name, format or theme is unknown, or the browser fails.
        MissingExtraError: what draws them is not installed.
        StoreError: a file cannot be written, or there is nothing to draw.
    """
    _known("format", formats, FORMATS)
    _known("theme", themes, THEMES)
    pictures = chosen(judged, names)
    files = [(picture, theme, format) for picture in pictures for theme in themes for format in formats]
    drawn = export([(_framed(picture, theme), format) for picture, theme, format in files])
    there = Path(folder)
    try:
        there.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder '{there}': {error.strerror or error}") from None
    paths = []
    for (picture, theme, format), content in zip(files, drawn, strict=True):
        name = picture.name + ("" if theme == "light" else f"-{theme}")
        if format == "svg":
            chart = picture.chart
            content = tidy(content.decode(), name, chart.finding, chart.caption).encode()
        paths.append(write_whole(there / f"{name}.{format}", content))
    return paths


def chosen(judged: Sequence[Judged], names: Iterable[str]) -> list[_Picture]:
    """Return the pictures of these names; of every chart where none is named.

    Raises:
        UsageError: a name belongs to no chart that there is.
        StoreError: no claim has a chart yet.
    """
    every = [_Picture(each, chart) for each in judged for chart in each.charts]
    if not every:
        raise StoreError("no claim of this survey has a verdict yet, so there is nothing to draw")
    asked = set(names)
    known = {name for picture in every for name in (picture.name, picture.judged.claim.name)}
    for name in sorted(asked - known):
        raise UsageError(
            f"picture {name!r} is unknown here; choose from {', '.join(picture.name for picture in every)}"
        )
    return [each for each in every if not asked or {each.name, each.judged.claim.name} & asked]


def _framed(picture: _Picture, theme: str) -> Framed:
    claim = picture.judged.claim
    identities = looks_of(claim.arms, picture.judged.charts)
    darker = dark_colours([Look(arm, look) for arm, look in identities.items()])
    return framed(chart_figure(picture.chart, identities, claim.arms), theme, darker)


def _known(what: str, given: Sequence[str], known: Iterable[str]) -> None:
    choices = list(known)
    for value in given:
        if value not in choices:
            raise UsageError(f"{what} {value!r} is unknown; choose from {', '.join(choices)}")
    if not given:
        raise UsageError(f"no {what} is named; choose from {', '.join(choices)}")
