"""A figure of the page: a finding, switchable plots, a caption, and the same data as a table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from batchnorm.records.tables import Cell, Table

__all__ = ["Cell", "Control", "Controls", "Figure", "Note", "Table", "script_json"]


@dataclass(frozen=True)
class Note:
    """A line of text that is shown for some choices of the controls; an empty `when` means always."""

    text: str
    when: str = ""


@dataclass(frozen=True)
class Control:
    """One choice of a reader: radio buttons, or a list where there are many options."""

    name: str
    label: str
    options: Sequence[tuple[str, str]]

    @property
    def as_list(self) -> bool:
        """Whether a list takes less room than buttons."""
        return len(self.options) > 4


@dataclass(frozen=True)
class Controls:
    """The choices that the figures of one group follow."""

    group: str
    controls: Sequence[Control]


@dataclass(frozen=True)
class Figure:
    """One figure.

    `plots` maps the chosen options of the controls it `follows`, joined by "|", to what is drawn.
    """

    name: str
    findings: Sequence[Note]
    plots: Mapping[str, go.Figure]
    captions: Sequence[Note]
    tables: Sequence[Table]
    controls: Controls | None = None
    follows: Sequence[str] = ()
    height: int = 420

    @property
    def json(self) -> Markup:
        """What the page's script draws, safe inside a script element."""
        group = self.controls.group if self.controls else ""
        plots = {key: _spec(plot) for key, plot in self.plots.items()}
        return script_json({"group": group, "controls": list(self.follows), "plots": plots})


def script_json(value: Any) -> Markup:
    """Return JSON that can stand in a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(_short(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _spec(plot: go.Figure) -> dict[str, Any]:
    spec = plot.to_plotly_json()
    spec["layout"].pop("template", None)
    return {"data": spec["data"], "layout": spec["layout"]}


def _short(value: Any) -> Any:
    # Five digits are more than a pixel shows, and halve the file.
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {str(key): _short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    return value
