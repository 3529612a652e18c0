import json
import math
import os

import pytest

from batchnorm.errors import StoreError
from batchnorm.records.scalars import scalars
from batchnorm.records.verdicts import VERDICTS_NAME, append_verdicts, read_verdicts, verdict_runs


def line(claim, verdict="reproduced", value=1.0):
    return {"claim": claim, "verdict": verdict, "value": value}


def test_only_what_is_new_is_appended(tmp_path):
    assert append_verdicts(tmp_path, [line(1), line(2, value=math.inf)]) == [line(1), line(2, value=math.inf)]
    first = (tmp_path / VERDICTS_NAME).read_bytes()
    assert append_verdicts(tmp_path, [line(1), line(2, value=math.inf)]) == []
    assert (tmp_path / VERDICTS_NAME).read_bytes() == first
    append_verdicts(tmp_path, [line(1, "partly"), line(2, value=math.inf)])
    assert (tmp_path / VERDICTS_NAME).read_bytes().startswith(first)
    assert read_verdicts(tmp_path) == {1: line(1, "partly"), 2: line(2, value=None)}
    # One that comes back is news again: the file tells what was thought when.
    assert append_verdicts(tmp_path, [line(1)]) == [line(1)]


def test_a_line_that_was_cut_off_is_closed_and_left_out(tmp_path):
    append_verdicts(tmp_path, [line(1)])
    with open(tmp_path / VERDICTS_NAME, "ab") as file:
        file.write(b'{"claim":1,"verd')
    assert read_verdicts(tmp_path) == {1: line(1)}
    append_verdicts(tmp_path, [line(2)])
    assert read_verdicts(tmp_path) == {1: line(1), 2: line(2)}
    texts = (tmp_path / VERDICTS_NAME).read_text().splitlines()
    assert json.loads(texts[2]) == line(2)


def test_there_are_none_without_the_file(tmp_path):
    assert read_verdicts(tmp_path) == {}


@pytest.mark.skipif(os.name != "posix", reason="a folder that is missing, POSIX's message")
def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / VERDICTS_NAME).mkdir()
    with pytest.raises(StoreError, match=r"cannot write '.*verdicts.jsonl': Is a directory"):
        append_verdicts(tmp_path, [line(1)])


def test_each_verdict_of_a_claim_is_a_run_for_the_logs(tmp_path):
    assert verdict_runs(tmp_path, 1) == []
    append_verdicts(tmp_path, [{**line(1, value=2.0), "low": 1.5, "high": None, "unit": "times"}, line(2)])
    append_verdicts(tmp_path, [line(1, "partly", None), line(1, "not reproduced", 0.5)])
    found = verdict_runs(tmp_path, 1)
    assert [(run.name, run.header["verdict"]) for run in found] == [
        ("verdict-1", "reproduced"), ("verdict-2", "partly"), ("verdict-3", "not reproduced"),
    ]  # fmt: skip
    assert [{scalar.name: scalar.value for scalar in scalars(run)} for run in found] == [
        {"verdict/value": 2.0, "verdict/low": 1.5, "verdict/reproduced": 1.0},
        {"verdict/reproduced": 0.5},
        {"verdict/value": 0.5, "verdict/reproduced": 0.0},
    ]
    assert found[0].header["unit"] == "times"
