"""Every test that the page of promises names exists, and the README has a row for each that the script measures."""

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/promises.md"


def named():
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))


def functions_of(file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_row_names_a_test():
    rows = [
        line for line in PAGE.read_text(encoding="utf-8").split("## ")[0].splitlines() if line[:2] == "| "
    ]
    assert len(named()) == len(rows) - 1 > 20


@pytest.mark.parametrize(("file", "test"), named())
def test_the_named_test_exists(file, test):
    assert test in functions_of(file)


def test_the_table_has_the_rows_that_are_measured(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    rows = runpy.run_path(str(ROOT / "benchmarks/real_training.py"))["ROWS"]
    sys.modules.pop("accumulation", None)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.split("batchnorm |\n|---|---|---|\n| " + rows[0][0])[1].split("\n\n")[0]
    shown = [rows[0][0], *re.findall(r"^\| (.*?) \| ", table, flags=re.MULTILINE)]
    assert shown == [title for title, _, _ in rows]
