import json

import pytest

from batchnorm.bench.results import FILE_NAME, append, open_results, read_results
from batchnorm.errors import StoreError
from tests.bench.records_factory import HEADER, MACHINE, record, step


def test_what_was_appended_is_read_back(tmp_path):
    opened = open_results(tmp_path / "new", HEADER, ("cpu",))
    assert opened.done() == set()
    append(tmp_path / "new", [record(torch=3.0), step()])
    found = read_results(tmp_path / "new")
    assert found.header == HEADER
    assert [line["ratios"]["torch"]["median"] for line in found.cases] == [3.0]
    assert len(found.steps) == 1
    assert found.done() == {("16x64x56x56 contiguous float32 bn+relu", "forward_backward")}
    assert read_results(tmp_path / "new" / FILE_NAME).cases == found.cases


def test_an_unfinished_line_is_dropped_and_the_run_goes_on(tmp_path):
    open_results(tmp_path, HEADER, ())
    append(tmp_path, [record()])
    with open(tmp_path / FILE_NAME, "a") as file:
        file.write('{"kind": "case", "sha')
    assert len(read_results(tmp_path).cases) == 1
    assert len(open_results(tmp_path, HEADER, ()).cases) == 1
    append(tmp_path, [record(phase="evaluation")])
    assert len(read_results(tmp_path).cases) == 2


def test_numbers_that_are_not_finite_become_null(tmp_path):
    open_results(tmp_path, HEADER, ())
    append(tmp_path, [{"kind": "case", "seconds": float("nan")}])
    assert json.loads((tmp_path / FILE_NAME).read_text().splitlines()[1])["seconds"] is None


@pytest.mark.parametrize("name", ["cpu", "native", "threads"])
def test_another_machine_or_build_is_refused(tmp_path, name):
    open_results(tmp_path, HEADER, ())
    other = HEADER | {"machine": MACHINE | {name: "other"}}
    with pytest.raises(StoreError, match=f"measured with {name} .*'other'"):
        open_results(tmp_path, other, ("cpu", "native", "threads"))


def test_other_settings_are_refused(tmp_path):
    open_results(tmp_path, HEADER, ())
    with pytest.raises(StoreError, match="other settings"):
        open_results(tmp_path, HEADER | {"settings": {"preset": "full"}}, ("cpu",))


@pytest.mark.parametrize(
    ("text", "said"),
    [("not json\n", "line 1: not JSON"), ("[1]\n", "line 1: not a record"), ('{"kind": "config"}\n', "does not begin"),
     ("", "does not begin"), ('{"kind": "bench", "schema": 99}\n', "schema 1")],
)  # fmt: skip
def test_a_foreign_file_is_refused(tmp_path, text, said):
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(StoreError, match=said):
        read_results(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"gone\.jsonl"):
        read_results(tmp_path / "gone.jsonl")


def test_a_step_measured_again_takes_the_place_of_the_first(tmp_path):
    open_results(tmp_path, HEADER, ())
    append(tmp_path, [step(torch=1.1), step("MobileNetV2"), step(torch=1.3)])
    found = read_results(tmp_path).steps
    assert [(line["network"], line["ratios"]["torch"]["median"]) for line in found] == [
        ("ResNet-18", 1.3), ("MobileNetV2", 1.2)
    ]  # fmt: skip


def test_what_was_disturbed_is_measured_again_and_replaced(tmp_path):
    opened = open_results(tmp_path, HEADER, ())
    append(tmp_path, [record(waiting=0.5, torch=1.0), record(phase="evaluation")])
    opened = open_results(tmp_path, HEADER, ())
    assert {phase for _, phase in opened.done()} == {"evaluation"}
    append(tmp_path, [record(waiting=0.01, torch=4.0)])
    found = read_results(tmp_path)
    assert [line["ratios"]["torch"]["median"] for line in found.cases] == [4.0, 5.0]
    assert len(found.done()) == 2
