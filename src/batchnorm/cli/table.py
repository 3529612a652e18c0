"""The table at the end of a comparison: every arm at its own best learning rate."""

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from batchnorm.cli.display import bare_table
from batchnorm.records.identity import identity
from batchnorm.records.intervals import Interval
from batchnorm.records.reach import Reach
from batchnorm.records.summary import ArmSummary, Summary
from batchnorm.records.wording import (
    MISSING,
    duration,
    epochs,
    percent_interval,
    points,
    rate,
    seconds_difference,
)

__all__ = ["arms_table"]

_HEADS = (
    "best rate",
    "test accuracy",
    "against none",
    "epochs to none's accuracy",
    "time to none's accuracy",
    "diverged",
    "time a step",
)


def arms_table(summary: Summary, console: Console) -> RenderableType:
    """The arms as rows, or where that is too wide as columns, as many beside each other as fit.

    Args:
        summary: of the records.
        console: where it will stand; its width decides.
    """
    rows = _rows(summary)
    if not summary.arms:
        return "No run has finished yet."
    if _fits(rows, console):
        return rows
    blocks: list[list[ArmSummary]] = []
    for arm in summary.arms:
        if blocks and _fits(_columns([*blocks[-1], arm], summary), console):
            blocks[-1].append(arm)
        else:
            blocks.append([arm])
    tables = [_columns(block, summary) for block in blocks]
    return Group(*(part for table in tables for part in (table, ""))) if len(tables) > 1 else tables[0]


def _fits(table: Table, console: Console) -> bool:
    unlimited = console.options.update(width=10_000)
    return Measurement.get(console, unlimited, table).maximum <= console.width


def _rows(summary: Summary) -> Table:
    table = bare_table()
    table.add_column("arm", no_wrap=True)
    for head in _HEADS:
        table.add_column(head, justify="right", no_wrap=True)
    for arm in summary.arms:
        table.add_row(_name(arm, summary), *_cells(arm))
    return table


def _columns(arms: Sequence[ArmSummary], summary: Summary) -> Table:
    table = bare_table()
    table.add_column("arm", style="dim")
    for arm in arms:
        table.add_column(_name(arm, summary), justify="right")
    for head, *cells in zip(_HEADS, *(_cells(arm) for arm in arms), strict=True):
        table.add_row(head, *cells)
    return table


def _name(arm: ArmSummary, summary: Summary) -> Text:
    """Bold marks the winner, which there is only where the intervals support one."""
    weight = "bold" if arm.key == summary.winner else "not bold"
    return Text(arm.label, style=f"not dim {weight} {identity(arm.arm).colour}")


def _cells(arm: ArmSummary) -> tuple[str, ...]:
    reach = arm.reach
    return (
        rate(arm.best_lr),
        percent_interval(arm.test_accuracy),
        points(arm.accuracy_difference),
        MISSING if reach is None else _arrival(reach, epochs(reach.epochs), _signed(reach.epochs_difference)),
        MISSING if reach is None else _arrival(reach, _time(reach.seconds), _time_gap(reach)),
        f"{arm.diverged} of {arm.runs}",
        duration(arm.seconds_per_step),
    )


def _arrival(reach: Reach, mean: str, difference: str | None) -> str:
    """The mean over seeds that got there; the difference to none stands beside it where all did."""
    if reach.compared == 0:
        return MISSING
    if reach.reached == 0:
        return "never"
    if not reach.complete:
        return f"{mean} in {reach.reached} of {reach.compared} seeds"
    return mean if difference is None else f"{mean.partition(' [')[0]}, {difference}"


def _signed(difference: Interval | None) -> str | None:
    return None if difference is None else epochs(difference, sign=True)


def _time(interval: Interval | None) -> str:
    return duration(None if interval is None else interval.mean)


def _time_gap(reach: Reach) -> str | None:
    return None if reach.seconds_difference is None else seconds_difference(reach.seconds_difference)
