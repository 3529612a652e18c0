"""Write the table of docs/reference/survey.md from the verdicts of a survey.

Run: python benchmarks/survey_table.py FULL QUICK, copies in benchmarks/results of the verdicts.jsonl that
`batchnorm lab report DIR` wrote for a full and for a quick survey.
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
MARKS = re.compile(
    r"<!-- begin: python benchmarks/survey_table\.py ?([^>]*) -->\n(.*?)<!-- end -->", re.DOTALL
)


def table(full: Path, quick: Path) -> str:
    """The part of the page that the verdicts decide."""
    surveys = {"full": read_verdicts(full), "quick": read_verdicts(quick)}
    rows = [
        "| claim | full | ours | seeds | quick | ours | seeds | of |",
        "|---|---|---:|---:|---|---:|---:|---|",
    ]
    for name in NAMES:
        experiment = load(name)
        lines = [found.get(experiment.number) for found in surveys.values()]
        unit = next((line["unit"] for line in lines if line), "")
        cells = " | ".join(map(_cells, lines))
        rows.append(f"| {experiment.number}. {experiment.claim} | {cells} | {unit} |")
    said = "".join(f"{_counted(kind, found)}\n" for kind, found in surveys.items())
    return f"{said}\n" + "\n".join(rows) + "\n"


def _cells(line: dict[str, Any] | None) -> str:
    return f"**{line['verdict']}** | {_value(line)} | {line['seeds']}" if line else "not run | | "


def _counted(kind: str, found: dict[int, dict[str, Any]]) -> str:
    counts = dict.fromkeys(("reproduced", "partly", "not reproduced"), 0)
    for line in found.values():
        counts[line["verdict"]] += 1
    return f"{len(found)} claims, {kind}: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}."


def _value(line: dict[str, Any]) -> str:
    if line["value"] is None:
        return MISSING
    if line["low"] is None or line["high"] is None:
        return number(line["value"])
    return f"{number(line['value'])} [{number(line['low'])}, {number(line['high'])}]"


def _folder(given: str) -> Path:
    folder = Path(given).resolve().parent
    if Path(given).name != VERDICTS_NAME or not folder.is_relative_to(ROOT):
        raise SystemExit(
            f"{given} is no {VERDICTS_NAME} in this checkout; the page must name a file kept in it"
        )
    return folder


def main() -> None:
    """Put the table between the marks of the page."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    folders = [_folder(given) for given in sys.argv[1:]]
    names = " ".join(str((folder / VERDICTS_NAME).relative_to(ROOT)) for folder in folders)
    begin = f"<!-- begin: python benchmarks/survey_table.py {names} -->"
    text, count = MARKS.subn(
        lambda _: f"{begin}\n\n{table(*folders)}\n<!-- end -->", PAGE.read_text(encoding="utf-8")
    )
    if count != 1:
        raise SystemExit(f"{PAGE} has lost its marks")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
