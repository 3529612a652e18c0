"""The table at the end of a comparison: every arm at its own best learning rate."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from batchnorm.records import Records
from batchnorm.records.identity import identity
from batchnorm.records.intervals import Interval
from batchnorm.records.reach import Reach
from batchnorm.records.summary import ArmSummary, Summary
from batchnorm.records.wording import (
    MISSING,
    duration,
    epochs,
    number,
    percent_interval,
    points,
    rate,
    seconds_difference,
)

__all__ = ["arms_table", "notes"]

_WIDE = 130
_HEADS = (
    "best rate",
    "test accuracy",
    "against none",
    "epochs to none's accuracy",
    "time to none's accuracy",
    "diverged",
    "time a step",
)


def arms_table(summary: Summary, width: int) -> RenderableType:
    """The arms as lines of a table, or where that does not fit as one short list an arm.

    Args:
        summary: of the records.
        width: of the terminal, in characters.
    """
    if width < _WIDE:
        return Group(*(_list(arm, bold=arm.key == summary.winner) for arm in summary.arms))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("arm")
    for head in _HEADS:
        table.add_column(head, justify="right")
    for arm in summary.arms:
        table.add_row(_name(arm, bold=arm.key == summary.winner), *_cells(arm))
    return table


def notes(summary: Summary, records: Records) -> Iterable[str]:
    """What a reader has to know to read the table, one line each."""
    settings = records.config.get("settings", {})
    seeds = settings.get("seeds")
    yield ""
    yield (
        f"Each arm at the rate with its best validation accuracy; means over {seeds} seeds with 95% intervals, "
        "differences paired by seed."
    )
    yield (
        "None's accuracy: the validation accuracy that the network without normalization ends with, seed by seed."
    )
    for arm in summary.arms:
        if arm.at_edge is not None:
            side = "lowest" if arm.at_edge == "low" else "highest"
            yield f"{arm.label}: its best rate {rate(arm.best_lr)} is the {side} tried; a better one may lie beyond."
    if not summary.complete:
        yield f"Not complete: {summary.finished} of {summary.planned} runs have finished."


def _list(arm: ArmSummary, *, bold: bool) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for head, cell in zip(_HEADS, _cells(arm), strict=True):
        if cell != MISSING:
            table.add_row(f"  {head}", cell)
    return Group(_name(arm, bold=bold), table)


def _name(arm: ArmSummary, *, bold: bool) -> Text:
    return Text(arm.label, style=f"{'bold ' if bold else ''}{identity(arm.arm).colour}")


def _cells(arm: ArmSummary) -> tuple[str, ...]:
    reach = arm.reach
    return (
        rate(arm.best_lr),
        percent_interval(arm.test_accuracy),
        points(arm.accuracy_difference),
        _arrival(reach, "epochs"),
        _arrival(reach, "seconds"),
        f"{arm.diverged} of {arm.runs}",
        duration(arm.seconds_per_step),
    )


def _arrival(reach: Reach | None, unit: str) -> str:
    """`3.2 (-4.8 [-7.8, -1.8])`, with a count where not every seed got there."""
    if reach is None or reach.compared == 0:
        return MISSING
    if reach.reached == 0:
        return "never"
    mean, difference = _parts(reach, unit)
    text = mean if difference is None else f"{mean} ({difference})"
    return text if reach.complete else f"{text} in {reach.reached} of {reach.compared} seeds"


def _parts(reach: Reach, unit: str) -> tuple[str, str | None]:
    if unit == "epochs":
        mean, difference = reach.epochs, reach.epochs_difference
        return _mean(mean), None if difference is None else epochs(difference, sign=True)
    mean, difference = reach.seconds, reach.seconds_difference
    return (
        duration(None if mean is None else mean.mean),
        None if difference is None else seconds_difference(difference),
    )


def _mean(interval: Interval | None) -> str:
    return MISSING if interval is None else number(interval.mean)
