"""Every experiment has a test of its own, and the contract that those tests call can fail."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from batchnorm.lab.experiment import Task
from batchnorm.lab.experiments import NAMES, layer_norm, load
from batchnorm.records.verdict import Verdict
from tests.lab.experiments import contract


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_is_tested(name):
    stem = name.replace("-", "_")
    source = Path(layer_norm.__file__).with_name(f"{stem}.py")
    text = Path(__file__).with_name(f"test_{stem}.py").read_text()
    assert "check(" in text
    assert "doctored(" in text
    assert len(source.read_text().splitlines()) <= 400
    assert f"{load(name).number}. " in source.read_text().splitlines()[0]


def changed(**fields):
    return replace(load("layer-norm"), **fields)


def tasks(*seeds, arms=("batch", "layer")):
    return [Task.of(arm, seed) for seed in seeds for arm in arms]


counter = itertools.count()


@pytest.mark.parametrize(
    ("part", "experiment"),
    [
        ("fields", changed(title="No question.")),
        ("fields", changed(criterion="no capital and no end")),
        ("fields", changed(source=replace(load("layer-norm").source, link="ftp://old"))),
        ("fields", changed(seconds=(0, 1))),
        ("fields", changed(seeds=(2, 5))),
        ("plan", changed(plan=lambda scale: tasks(next(counter), 0, 1))),
        ("plan", changed(plan=lambda scale: tasks(0, 1))),
        ("plan", changed(plan=lambda scale: tasks(*range(scale.seeds), arms=("batch", "batch")))),
        ("plan", changed(plan=lambda scale: tasks(*range(scale.seeds), arms=("unknown",)))),
        ("plan", changed(plan=lambda scale: tasks(*reversed(range(scale.seeds))))),
    ],
)
def test_what_breaks_the_contract_is_seen(part, experiment):
    check = {
        "fields": lambda: contract.check_fields(experiment, "layer-norm"),
        "plan": lambda: contract.check_plan(experiment),
    }[part]
    with pytest.raises(AssertionError):
        check()


def test_a_run_that_draws_from_elsewhere_is_seen():
    records = contract.miniature("layer-norm")
    contract.check_runs(load("layer-norm"), records, {})
    elsewhere = torch.Generator().manual_seed(1)
    shaky = changed(run=lambda task: [{"moved_in_training": torch.rand((), generator=elsewhere).item()}])
    with pytest.raises(AssertionError, match="other records"):
        contract.check_runs(shaky, records, {})


def test_a_judgement_that_changes_the_records_or_the_verdict_is_seen():
    records = contract.miniature("layer-norm")
    verdicts = itertools.cycle([1.0, 2.0])

    def touchy(lines):
        lines[0]["seed"] = 99
        return load("layer-norm").verdict(lines)

    def moody(lines):
        found = load("layer-norm").verdict(lines)
        return Verdict.of(found.checks, next(verdicts), unit="x", finding="It moved.")

    for verdict in (touchy, moody):
        with pytest.raises(AssertionError):
            contract.check_judgement(changed(verdict=verdict), contract.miniature("layer-norm"))
    contract.check_judgement(load("layer-norm"), records)


def test_doctoring_needs_a_line_and_a_field_that_are_there():
    records = contract.miniature("layer-norm")
    with pytest.raises(AssertionError, match="no record has"):
        contract.doctored(records, {"moved_in_training": 0.0}, arm="none")
    with pytest.raises(AssertionError, match="is no field of"):
        contract.doctored(records, {"moved": 0.0}, arm="batch")
    doubled = contract.doctored(records, {"moved_in_training": lambda old: 2 * old}, arm="batch", seed=0)
    assert [new["moved_in_training"] / old["moved_in_training"] for old, new in zip(records, doubled, strict=True)
            if old["arm"] == "batch"] == [2.0, 1.0, 1.0]  # fmt: skip


def test_settings_that_no_task_has_are_not_made_smaller():
    with pytest.raises(AssertionError, match="no task has the settings \\['steps'\\]"):
        contract.miniature("layer-norm", steps=3)
