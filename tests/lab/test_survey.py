import json
import os

import pytest

from batchnorm.errors import DataError, ModelError, StoreError, UsageError
from batchnorm.lab import experiments, judge_folder, judging, run, survey
from batchnorm.lab.experiments import before_and_after, layer_norm
from batchnorm.records import read
from batchnorm.records.verdicts import read_verdicts
from tests.lab.tiny import timeless

TWO = ("before-and-after", "layer-norm")


@pytest.fixture(autouse=True)
def two_experiments(monkeypatch):
    """Those two, whatever else there is: they take milliseconds."""
    for module in (experiments, judging):
        monkeypatch.setattr(module, "NAMES", TWO)


def runs(folder, name="layer-norm"):
    return {
        key: timeless([each.header, *each.measurements]) for key, each in read(folder / name).runs.items()
    }


class Told(list):
    """Keeps what a survey says, and may break off after so many runs."""

    wants_starts = True

    def __init__(self, stop_after=None):
        super().__init__()
        self.stop_after = stop_after

    def begin(self, folder, batches, jobs, news):
        self.append(("begin", folder, [len(batch.missing) for batch in batches], jobs))
        self.news, self.started = news, set()

    def finished(self, name, lines):
        self.started |= {(line["claim"], line["run"]) for line in self.news.news()}
        self.append(("finished", name, lines[-1]["run"]))
        if sum(each[0] == "finished" for each in self) == self.stop_after:
            raise KeyboardInterrupt

    def failed(self, name, error):
        self.append(("failed", name, str(error)))

    def judged(self, found):
        self.append(("judged", found.claim.name, found.verdict.verdict))


def test_records_do_not_depend_on_the_number_of_jobs(tmp_path):
    told = Told()
    run(["all"], tmp_path / "one", quick=True, jobs=1)
    run(["all"], tmp_path / "two", quick=True, jobs=2, watcher=told)
    for name in TWO:
        assert runs(tmp_path / "one", name) == runs(tmp_path / "two", name)
    assert read_verdicts(tmp_path / "one") == read_verdicts(tmp_path / "two")
    assert told.started == {(name, run) for name in TWO for run in runs(tmp_path / "two", name)}
    # Which claim's last run ends first is up to the workers.
    assert sorted(each for each in told if each[0] == "judged") == [
        ("judged", "before-and-after", "reproduced"),
        ("judged", "layer-norm", "reproduced"),
    ]


def test_an_interrupted_survey_goes_on_and_repeats_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(["all"], tmp_path, quick=True, jobs=1, watcher=Told(stop_after=5))
    assert len(runs(tmp_path, "before-and-after")) == 3
    assert len(runs(tmp_path)) == 2
    assert set(read_verdicts(tmp_path)) == {10}
    assert [(each.finished, each.verdict is None) for each in judge_folder(tmp_path)] == [
        (3, False),
        (2, True),
    ]
    before = (tmp_path / "layer-norm" / "results.jsonl").read_bytes()
    told = Told()
    run(["all"], tmp_path, quick=True, jobs=1, watcher=told)
    assert told[0] == ("begin", tmp_path, [0, 10], 1)
    assert (tmp_path / "layer-norm" / "results.jsonl").read_bytes().startswith(before)
    again = tmp_path / "again"
    run(["all"], again, quick=True, jobs=1)
    assert runs(tmp_path) == runs(again)
    assert read_verdicts(tmp_path) == read_verdicts(again)


def test_a_finished_survey_writes_nothing_when_it_is_repeated(tmp_path):
    run(["layer-norm"], tmp_path, quick=True, jobs=1)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    assert len(files) == 2
    run(["layer-norm"], tmp_path, quick=True, jobs=1)
    judge_folder(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")} == files


def test_a_verdict_that_changes_is_appended_and_the_first_one_stays(tmp_path, monkeypatch):
    run(["layer-norm"], tmp_path, quick=True, jobs=1)
    monkeypatch.setattr(layer_norm, "LEAST", 3.0)
    judge_folder(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert [line["verdict"] for line in lines] == ["reproduced", "partly"]
    assert set(lines[0]) >= {"claim", "verdict", "value", "low", "high", "criterion"}
    assert read_verdicts(tmp_path)[11]["verdict"] == "partly"


def test_an_experiment_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    calls = []

    def fail(task):
        calls.append(task)
        raise ZeroDivisionError("out of luck")

    broken = before_and_after.EXPERIMENT.__class__(**{**vars(before_and_after.EXPERIMENT), "run": fail})
    monkeypatch.setattr(before_and_after, "EXPERIMENT", broken)
    told = Told()
    message = r"experiment 'before-and-after', run batch,points=64,seed=0: ZeroDivisionError: out of luck.*are kept in"
    with pytest.raises(ModelError, match=message):
        run(["all"], tmp_path, quick=True, jobs=1, watcher=told)
    assert len(calls) == 1
    assert told.count(("judged", "layer-norm", "reproduced")) == 1
    assert [each[1] for each in told if each[0] == "failed"] == ["before-and-after"]
    assert set(read_verdicts(tmp_path)) == {11}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            {"names": ["mnist"]},
            UsageError,
            "experiment 'mnist' is unknown; choose from all, before-and-after",
        ),
        ({"names": []}, UsageError, "no experiment is named"),
        ({"seeds": 2}, UsageError, "--seeds 2 must be at least 3"),
        ({"seeds": "x"}, UsageError, "--seeds 'x' is not a whole number"),
        ({"jobs": 0}, UsageError, "--jobs 0 must be at least 1"),
        ({"data": "cifar"}, UsageError, "--data 'cifar' is unknown; choose from digits, mnist"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, given, error, message):
    with pytest.raises(error, match=message):
        run(**{"names": ["all"], "out": tmp_path / "new", "quick": True} | given)
    assert not (tmp_path / "new").exists()


def test_the_folder_must_be_the_surveys_own(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        StoreError, match=r"is not empty and holds no results of the lab \('notes.txt' is there\)"
    ):
        run(["layer-norm"], tmp_path, quick=True)
    assert os.listdir(tmp_path) == ["notes.txt"]
    compared = tmp_path / "compared"
    compared.mkdir()
    (compared / "results.jsonl").write_text("{}\n")
    with pytest.raises(StoreError, match="holds results of a comparison"):
        run(["layer-norm"], compared, quick=True)
    with pytest.raises(StoreError, match="holds no results of the lab"):
        judge_folder(tmp_path)


def test_other_settings_need_another_folder(tmp_path):
    run(["layer-norm"], tmp_path, quick=True, jobs=1)
    with pytest.raises(
        StoreError, match=r"another configuration: seeds is 3 there and 4 here; choose another --out"
    ):
        run(["layer-norm"], tmp_path, quick=True, seeds=4)
    with pytest.raises(StoreError, match=r"quick is True there and False here"):
        run(["layer-norm"], tmp_path, seeds=3)


def test_settings_have_a_folder_of_their_own():
    names = {
        str(survey.default_folder(quick=quick, seeds=seeds, data=data))
        for quick in (True, False)
        for seeds in (None, 7)
        for data in ("digits", "mnist")
    }
    assert len(names) == 8
    assert str(survey.default_folder(quick=True, seeds=None, data="digits")).endswith("lab-quick")


def test_the_data_is_in_the_settings_of_those_that_use_it(tmp_path, monkeypatch):
    used = experiments.load("layer-norm")
    using = used.__class__(**{**vars(used), "uses_data": True})
    monkeypatch.setattr(layer_norm, "EXPERIMENT", using)
    run(["all"], tmp_path, quick=True, jobs=1)
    settings = {name: read(tmp_path / name).config["settings"] for name in TWO}
    assert settings["before-and-after"]["data"] is None
    assert settings["layer-norm"]["data"] == "digits"
    assert len(settings["layer-norm"]["data_digest"]) == 64
    monkeypatch.setattr(
        survey.data_sets, "cached", lambda name: (_ for _ in ()).throw(DataError(f"no {name}"))
    )
    with pytest.raises(DataError, match="no mnist"):
        run(["all"], tmp_path / "mnist", quick=True, data="mnist")
    assert not (tmp_path / "mnist").exists()


def test_records_without_what_the_criterion_needs_are_told(tmp_path):
    run(["layer-norm"], tmp_path, quick=True, jobs=1)
    path = tmp_path / "layer-norm" / "results.jsonl"
    path.write_text(path.read_text().replace('"depends"', '"lost"'))
    with pytest.raises(
        StoreError, match=r"the records of 'layer-norm' in .* cannot be judged: KeyError: 'depends'"
    ):
        judge_folder(tmp_path)
