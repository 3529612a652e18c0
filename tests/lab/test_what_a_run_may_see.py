"""A run chooses, measures and orders by what it may: the test split stays out of everything but the last line."""

import dataclasses
import itertools

import pytest
import torch

from batchnorm.lab import ranks, training
from batchnorm.lab.plan import Task
from batchnorm.lab.splits import Split
from batchnorm.lab.targets import load_target
from batchnorm.records.store import Run
from batchnorm.records.summary import best_rate
from tests.lab import tiny

BATCH = Task("batch", "after", 0.3, 0)
CONFIG = tiny.config(epochs=12)


def lines_of(dataset, config=CONFIG, task=BATCH):
    return training.train(config, task, dataset, [0, 3, 5])


def of_kind(lines, *kinds):
    return [line for line in tiny.timeless(lines) if line["kind"] in kinds]


def with_split(dataset, name, x=None, y=None):
    split = getattr(dataset, name)
    return dataclasses.replace(
        dataset, **{name: Split(split.x if x is None else x, split.y if y is None else y)}
    )


def test_validation_numbers_come_from_the_validation_split():
    data = tiny.dataset()
    wrong = with_split(data, "validation", y=(data.validation.y + 1) % 3)
    lines = lines_of(wrong)
    assert lines[-1]["test_accuracy"] > 0.8
    assert of_kind(lines, "epoch")[-1]["val_accuracy"] < 0.2


def test_the_test_split_changes_nothing_before_the_last_lines():
    data = tiny.dataset()
    other = with_split(data, "test", x=data.test.x * 1000 - 7)
    kinds = ("run", "epoch", "activation")
    assert of_kind(lines_of(other), *kinds) == of_kind(lines_of(data), *kinds)
    assert lines_of(other)[-1]["test_loss"] != lines_of(data)[-1]["test_loss"]


def test_activations_are_measured_on_the_validation_split():
    data = tiny.dataset()
    other = with_split(data, "validation", x=data.validation.x * 3)
    assert of_kind(lines_of(other), "activation") != of_kind(lines_of(data), "activation")


def test_a_test_loss_that_is_not_finite_is_no_divergence_and_does_not_move_the_choice_of_the_rate():
    data = tiny.dataset()
    spoiled = data.test.x.clone()
    spoiled[0] = torch.inf
    lines = lines_of(with_split(data, "test", x=spoiled))
    final = lines[-1]
    assert (final["diverged"], final["diverged_at"]) == (False, None)
    assert final["test_loss"] is None
    assert final["test_accuracy"] is None
    runs = [Run(lines[0], of_kind(lines, "epoch"), final=final)]
    lower = lines_of(data, task=Task("batch", "after", 1e-6, 0))
    runs.append(Run(lower[0], of_kind(lower, "epoch"), final=lower[-1]))
    assert best_rate(runs) == 0.3


def test_the_probe_is_drawn_from_the_whole_split_and_is_the_same_for_every_run():
    data = tiny.dataset()
    many = with_split(data, "validation", x=data.validation.x.repeat(60, 1), y=data.validation.y.repeat(60))
    fabric, alone = ranks.single("cpu", "32-true"), ranks.Alone()
    tasks = (BATCH, Task("none", None, 0.1, 5))
    probes = [training._Run(fabric, alone, CONFIG, task, many).probe for task in tasks]
    assert torch.equal(*probes)
    assert len(probes[0].unique()) == training.PROBE_SAMPLES
    assert (probes[0] >= training.PROBE_SAMPLES).sum() > 100


MODEL = """
import torch
seen = []
def build(p=0.0):
    class Net(torch.nn.Sequential):
        def forward(self, x):
            if self.training and torch.is_grad_enabled() and isinstance(x, torch.Tensor):
                seen.append(x.clone())
            return super().forward(x)
    return Net(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Dropout(float(p)), torch.nn.Linear(5, 3))
"""


def test_an_arm_that_draws_random_numbers_gets_the_same_batches(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(MODEL)
    seen = load_target(f"{path}:seen")
    batches = []
    for p in ("0.0", "0.5"):
        seen.clear()
        lines_of(tiny.dataset(), tiny.config({"model.p": p}, model=f"{path}:build", epochs=3))
        batches.append(torch.cat(seen))
    assert len(batches[0]) == 3 * 40
    assert torch.equal(*batches)


@pytest.mark.parametrize("slow", [0, 7])
def test_seconds_a_step_are_the_median_and_the_total_is_the_sum(monkeypatch, slow):
    durations = [100.0 if step == slow else 1.0 for step in range(10)]
    ticks = itertools.chain.from_iterable((1000.0 * i, 1000.0 * i + d) for i, d in enumerate(durations))
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(ticks))
    final = lines_of(tiny.dataset(), tiny.config(epochs=2))[-1]
    assert final["seconds_per_step"] == 1.0
    assert final["train_seconds"] == 109.0
