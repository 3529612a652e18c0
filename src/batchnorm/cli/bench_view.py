"""What `batchnorm bench` prints: the answer, the targets, the means, and the shapes that do worst."""

from collections.abc import Sequence

from rich.console import Console

from batchnorm.bench.digest import (
    COMPILED_HEAD,
    SHORT_PHASES,
    STEP_HEAD,
    SUMMARY_HEAD,
    TARGET_HEAD,
    answer,
    compiled_rows,
    machine_words,
    misses,
    not_run,
    quartiles,
    step_rows,
    summary_rows,
    target_rows,
)
from batchnorm.bench.results import Results
from batchnorm.bench.summary import median, slowest
from batchnorm.cli.display import bare_table
from batchnorm.records.wording import duration, number

__all__ = ["show"]

_SLOWEST = 8


def show(results: Results, console: Console) -> None:
    """Print what a run found, the most important first.

    Args:
        results: of the run.
        console: where to.
    """
    console.print()
    for sentence in answer(results):
        console.print(sentence, markup=False)
    console.print(f"Measured on {machine_words(results.machine)}.", markup=False, style="dim")
    _print(console, "Targets", TARGET_HEAD, target_rows(results), text_columns=(0, 4))
    console.print(
        "each: the worst counts, else the geometric mean; in brackets: with noise; limit: what would be measured if "
        "ours took no longer than the copies which must be made",
        style="dim",
    )
    for sentence in misses(results):
        console.print(sentence, markup=False, style="dim")
    for title, rows in summary_rows(results).items():
        _print(console, f"{title}: geometric means", SUMMARY_HEAD, rows)
    console.print("copies: time over that of the copies which must be made", style="dim")
    if results.steps:
        _print(console, "Training steps of whole networks", STEP_HEAD, step_rows(results))
    compiled = compiled_rows(results)
    if compiled:
        _print(console, "torch.compile, geometric means: e eager, c compiled", COMPILED_HEAD, compiled)
    _print(console, "Where ours compares worst with torch", _SLOW_HEAD, _slow_rows(results))
    for reason in not_run(results):
        console.print(f"Not run: {reason}", markup=False)
    console.print()


_SLOW_HEAD = ("case", "torch / ours", "quartiles", "torch", "ours")


def _slow_rows(results: Results) -> list[tuple[str, ...]]:
    return [
        (
            f"{line['case']}, {SHORT_PHASES[line['phase']]}",
            number(median(line, "torch")),
            quartiles(line),
            duration(line["seconds"]["torch"]),
            duration(line["seconds"]["batchnorm"]),
        )
        for line in slowest(results.cases, _SLOWEST)
    ]


def _print(
    console: Console,
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    text_columns: Sequence[int] = (0,),
) -> None:
    table = bare_table()
    for index, name in enumerate(head):
        table.add_column(name, justify="left" if index in text_columns else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(title, style="bold", markup=False)
    console.print(table)
