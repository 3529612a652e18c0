"""The page of the probes has every public name, with the signature that it has."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from batchnorm import probes

PAGE = (Path(__file__).parents[2] / "docs/reference/probes.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)(\(.*?\))` \|", PAGE, flags=re.MULTILINE))


@pytest.mark.parametrize("name", ROWS)
def test_signatures_are_as_printed(name):
    arguments = ast.parse(f"def f{ROWS[name]}: ...").body[0].args
    given = [*arguments.defaults, *(value for value in arguments.kw_defaults if value is not None)]
    parameters = inspect.signature(getattr(probes, name)).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for listed, kind in zip((arguments.args, arguments.kwonlyargs), kinds, strict=True):
        assert [a.arg for a in listed] == [p.name for p in parameters if p.kind is kind]
    defaults = [p.default for p in parameters if p.default is not inspect.Parameter.empty]
    assert [ast.literal_eval(value) for value in given] == defaults


def test_nothing_is_missing():
    functions = {name for name in probes.__all__ if name.islower()}
    assert functions == {*ROWS, "batch_statistics"}
    for name in probes.__all__:
        assert re.search(rf"\b{name}\(", PAGE), name


@pytest.mark.parametrize("name", [name for name in probes.__all__ if not name.islower()])
def test_results_have_the_fields_that_are_printed(name):
    printed = re.search(rf"`{name}\(([^)]*)\)`", PAGE)
    assert printed[1].split(", ") == list(inspect.signature(getattr(probes, name)).parameters)
