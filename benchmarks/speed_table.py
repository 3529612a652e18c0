"""Write the tables of docs/reference/speed.md from a file of results.

Run: python benchmarks/speed_table.py FILE, where FILE is a copy in benchmarks/results of the bench.jsonl that
`batchnorm bench --out` made
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from batchnorm.bench.digest import (
    COMPILED_HEAD,
    LAYOUT_NAMES,
    STEP_HEAD,
    SUMMARY_HEAD,
    TARGET_HEAD,
    answer,
    compiled_rows,
    machine_words,
    misses,
    not_run,
    quartiles,
    shape_words,
    step_rows,
    summary_rows,
    target_rows,
)
from batchnorm.bench.results import Results, read_results
from batchnorm.bench.summary import median
from batchnorm.records.wording import duration, number

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "speed.md"
MARKS = re.compile(r"<!-- begin: python benchmarks/speed_table\.py ?(\S*) -->\n(.*?)<!-- end -->", re.DOTALL)
SHAPE_HEAD = ("input", "layout", "after the norm", "torch", "ours", "torch / ours", "quartiles", "copies")


def tables(results: Results) -> str:
    """The part of the page that the results decide."""
    return "\n".join(_parts(results)).strip() + "\n"


def filled(page: str, name: str, results: Results) -> str:
    """The text of the page with the tables of `results`, which are kept as `name`, between its marks."""
    part = f"<!-- begin: python benchmarks/speed_table.py {name} -->\n\n{tables(results)}\n<!-- end -->"
    found, count = MARKS.subn(lambda _: part, page)
    assert count == 1, "the page has lost its marks"
    return found


def _parts(results: Results) -> Iterator[str]:
    yield f"Measured on {results.machine['date']}: {machine_words(results.machine)}."
    yield f"Command: `{results.header['command']}`.\n"
    yield from (f"{sentence} " for sentence in answer(results))
    yield "\n### Targets\n\nLimit: what would be measured if ours took no longer than the copies that must be made.\n"
    yield from _table(TARGET_HEAD, target_rows(results), text=(0, 4))
    yield ""
    yield from (
        f"- {sentence}" for sentence in [*misses(results), *(f"Not run: {why}." for why in not_run(results))]
    )
    for title, rows in summary_rows(results).items():
        yield f"\n### {title}\n"
        yield from _table(SUMMARY_HEAD, rows)
    if compiled_rows(results):
        yield "\n### torch.compile\n\ne: eager, c: compiled.\n"
        yield from _table(COMPILED_HEAD, compiled_rows(results))
    if results.steps:
        yield "\n### Training steps\n"
        yield from _table(STEP_HEAD, step_rows(results))
    yield "\n### Every shape, float32, forward and backward\n"
    yield from _table(SHAPE_HEAD, _shapes(results), text=(0, 1, 2))


def _shapes(results: Results) -> list[tuple[str, ...]]:
    lines = [
        line for line in results.cases if line["phase"] == "forward_backward" and line["dtype"] == "float32"
    ]
    lines.sort(key=lambda line: (line["layout"] != "contiguous", line["bytes"], line["variant"]))
    return [
        (
            shape_words(line["shape"]),
            LAYOUT_NAMES[line["layout"]],
            line["variant"].removeprefix("bn").removeprefix("+").replace("+", ", ") or "nothing",
            duration(line["seconds"]["torch"]),
            duration(line["seconds"]["batchnorm"]),
            number(median(line, "torch")),
            quartiles(line),
            number(1 / (median(line, "copy") or float("nan"))),
        )
        for line in lines
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[int] = (0,)) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---' if index in text else '---:' for index in range(len(head)))}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def main() -> None:
    """Put the tables between the marks of the page."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    file = Path(sys.argv[1]).resolve()
    if not file.is_relative_to(ROOT):
        raise SystemExit(
            f"{sys.argv[1]} lies outside of this checkout; the page must name a file that is kept in it"
        )
    name = file.relative_to(ROOT).as_posix()
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), name, read_results(file)), encoding="utf-8")


if __name__ == "__main__":
    main()
