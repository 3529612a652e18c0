"""Where the numbers come from: command, versions, seeds, device."""

import json
from typing import Any

from batchnorm.records.grouping import finite
from batchnorm.records.wording import count
from batchnorm.report.figure import Table
from batchnorm.report.view import View

__all__ = ["command", "facts_of", "facts_table", "settings_table", "versions_table", "written"]


def command(view: View) -> str:
    """Return the command that made the records."""
    return str(view.records.config.get("command") or "")


def facts_table(view: View) -> Table:
    """Return when, where and on what the runs were made."""
    data = view.records.data or {}
    seeds = sorted({int(finite(run.header.get("seed")) or 0) for run in view.records.runs.values()})
    rows = [
        *facts_of(view.records.config),
        ["runs", f"{count(view.summary.finished)} finished of {count(view.summary.planned)} planned"],
        ["seeds", ", ".join(map(str, seeds)) or "none yet"],
        ["data", _text(data.get("name"))],
        ["shape of a sample", _text(data.get("input_shape"))],
        ["samples", ", ".join(f"{_text(data.get(part))} {part}" for part in ("train", "validation", "test"))],
        ["digest of the data", _text(data.get("digest"))],
    ]
    return Table("The runs", ["what", "value"], rows, text_columns=2)


def versions_table(view: View) -> Table:
    """Return the versions of the software."""
    rows = written(view.records.config.get("versions"))
    return Table("Versions", ["software", "version"], rows, text_columns=2)


def settings_table(view: View) -> Table:
    """Return everything that decided the numbers."""
    rows = [[str(name), _setting(view, str(name), value)] for name, value in view.settings.items()]
    return Table("Settings", ["setting", "value"], rows, text_columns=2)


def facts_of(config: dict[str, Any]) -> list[list[str]]:
    """Return when and on what the runs were made, from the `config` line."""
    return [
        ["started", _text(config.get("started"))],
        ["device", _text(config.get("device"))],
        ["commit of batchnorm", _text(config.get("commit"))],
    ]


def written(values: Any) -> list[list[str]]:
    """Return the entries of a mapping as rows; none where it is something else."""
    return [[str(name), _text(value)] for name, value in values.items()] if isinstance(values, dict) else []


def _setting(view: View, name: str, value: Any) -> str:
    # A file or a module has a colon in its target; the models that come with the package have a name only.
    if name == "model_digest" and value is None and ":" not in str(view.settings.get("model") or ":"):
        return "none: the model comes with batchnorm"
    return _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "not recorded"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
