"""Write the table of docs/reference/survey.md from the verdicts of a survey.

Run: python benchmarks/survey_table.py FILE, where FILE is a copy in benchmarks/results of the verdicts.jsonl that
`batchnorm lab report DIR` wrote for a quick survey
"""

import re
import sys
from pathlib import Path
from typing import Any

from batchnorm.lab.experiments import NAMES, load
from batchnorm.records.verdicts import VERDICTS_NAME, read_verdicts
from batchnorm.records.wording import MISSING, number

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "survey.md"
MARKS = re.compile(r"<!-- begin: python benchmarks/survey_table\.py ?(\S*) -->\n(.*?)<!-- end -->", re.DOTALL)


def table(folder: Path) -> str:
    """The part of the page that the verdicts decide."""
    found = read_verdicts(folder)
    rows = ["| claim | verdict | ours | of | seeds |", "|---|---|---:|---|---:|"]
    for name in NAMES:
        experiment = load(name)
        line = found.get(experiment.number)
        if line is None:
            rows.append(f"| {experiment.number}. {experiment.claim} | not run | | | |")
            continue
        rows.append(
            f"| {experiment.number}. {experiment.claim} | **{line['verdict']}** | {_value(line)} | {line['unit']} | "
            f"{line['seeds']} |"
        )
    counts = dict.fromkeys(("reproduced", "partly", "not reproduced"), 0)
    for line in found.values():
        counts[line["verdict"]] += 1
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return f"{len(found)} claims: {said}.\n\n" + "\n".join(rows) + "\n"


def _value(line: dict[str, Any]) -> str:
    if line["value"] is None:
        return MISSING
    if line["low"] is None or line["high"] is None:
        return number(line["value"])
    return f"{number(line['value'])} [{number(line['low'])}, {number(line['high'])}]"


def main() -> None:
    """Put the table between the marks of the page."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1]).resolve().parent
    if Path(sys.argv[1]).name != VERDICTS_NAME or not folder.is_relative_to(ROOT):
        raise SystemExit(
            f"{sys.argv[1]} is no {VERDICTS_NAME} in this checkout; the page must name a file kept in it"
        )
    name = (folder / VERDICTS_NAME).relative_to(ROOT)
    begin = f"<!-- begin: python benchmarks/survey_table.py {name} -->"
    text, count = MARKS.subn(
        lambda _: f"{begin}\n\n{table(folder)}\n<!-- end -->", PAGE.read_text(encoding="utf-8")
    )
    if count != 1:
        raise SystemExit(f"{PAGE} has lost its marks")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
