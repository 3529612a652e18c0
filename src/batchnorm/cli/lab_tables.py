"""The tables of the lab in the terminal: which claims there are, and what became of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from batchnorm.cli.display import bare_table
from batchnorm.records.intervals import Interval
from batchnorm.records.judged import Judged
from batchnorm.records.verdict import NOT_REPRODUCED, PARTLY, REPRODUCED, Verdict
from batchnorm.records.wording import MISSING, duration, plain_interval

if TYPE_CHECKING:  # help must not load the lab
    from batchnorm.lab.experiment import Experiment

__all__ = ["SIGNS", "experiments_table", "value_words", "verdicts_table"]

_NARROW = 100  # columns; below that the question, or the unit, gives way
# A sign beside each colour, so that colour is never the only one.
SIGNS = {REPRODUCED: ("✓", "green"), PARTLY: ("~", "yellow"), NOT_REPRODUCED: ("✗", "red")}


def experiments_table(experiments: Sequence["Experiment"], console: Console) -> Table:
    """The claims as rows: number, name, question, and the time on one core.

    Args:
        experiments: in the order of display.
        console: where it will stand; its width decides whether there is room for the question.
    """
    narrow = console.width < _NARROW
    table = bare_table()
    table.add_column("claim", justify="right")
    table.add_column("name", no_wrap=True)
    if not narrow:
        table.add_column("question")
    for head in ("quick", "full"):
        table.add_column(head, justify="right", no_wrap=True)
    for each in experiments:
        question = [] if narrow else [Text(each.title)]
        cost = [duration(seconds) for seconds in each.seconds]
        table.add_row(str(each.number), each.name, *question, *cost)
    return table


def verdicts_table(judged: Sequence[Judged], console: Console) -> Table:
    """The claims that were run, each with its number and verdict."""
    table = bare_table()
    table.add_column("claim", justify="right")
    table.add_column("name", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("our number [95%]", justify="right")
    if console.width >= _NARROW:
        table.add_column("of what")
    table.add_column("time", justify="right", no_wrap=True)
    for each in judged:
        found = each.verdict
        unit = [] if console.width < _NARROW else [Text(found.unit if found else "")]
        number = Text(value_words(found) if found else MISSING)
        table.add_row(
            str(each.claim.number), each.claim.name, _verdict(each), number, *unit, duration(each.seconds)
        )
    return table


def value_words(verdict: Verdict) -> str:
    """The claim's number with its interval."""
    if verdict.value is None:
        return MISSING
    return plain_interval(Interval(verdict.value, verdict.low, verdict.high, 0))


def _verdict(judged: Judged) -> Text:
    if judged.verdict is None:
        return Text(f"{judged.finished} of {judged.planned} runs", style="dim")
    sign, colour = SIGNS[judged.verdict.verdict]
    quick = " (quick)" if judged.quick else ""
    return Text(f"{sign} {judged.verdict.verdict}{quick}", style=colour)
