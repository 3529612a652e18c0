import os

import pytest
import torch

from batchnorm.errors import ModelError
from batchnorm.lab.plan import Task
from batchnorm.lab.training import train
from batchnorm.records.store import Store, read
from tests.lab import tiny

NONE = Task("none", None, 0.1, 0)
BATCH = Task("batch", "after", 0.1, 0)


def run(config=None, task=BATCH, dataset=None, **extra):
    return train(config or tiny.config(), task, dataset or tiny.dataset(), [0, 3, 5], **extra)


def of_kind(lines, kind):
    return [line for line in lines if line["kind"] == kind]


@pytest.mark.parametrize("arm", ["none", "batch", "layer"])
def test_the_same_run_gives_the_same_bits(arm):
    task = Task(arm, None if arm == "none" else "before", 0.1, 7)
    config = tiny.config(placement="before", dropout=0.3, norms=arm)
    assert tiny.timeless(run(config, task)) == tiny.timeless(run(config, task))


def test_seeds_differ_and_the_number_of_threads_outside_does_not_matter():
    one = tiny.timeless(run())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert tiny.timeless(run()) == one
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    other = run(task=Task("batch", "after", 0.1, 1))
    assert of_kind(other, "epoch")[0]["train_loss"] != of_kind(one, "epoch")[0]["train_loss"]


MODEL = """
import torch
seen = []
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(6, 8)
        self.act = torch.nn.ReLU()
        self.drop = torch.nn.Dropout(0.5)
        self.last = torch.nn.Linear(8, 3)
    def forward(self, x):
        if self.training and torch.is_grad_enabled() and isinstance(x, torch.Tensor):
            seen.append((x.clone(), torch.get_num_threads()))
        return self.last(self.drop(self.act(self.first(x))))
def build():
    return Net()
"""


@pytest.fixture
def spy(tmp_path):
    """A model that remembers its training batches and on how many threads it ran."""
    from batchnorm.lab.targets import load_target

    path = tmp_path / "spy.py"
    path.write_text(MODEL)
    target = f"{path}:build"
    seen = load_target(f"{path}:seen")

    def of(task, **values):
        seen.clear()
        lines = run(tiny.config(model=target, norms="none,batch,layer", **values), task)
        return lines, list(seen)

    return of


def test_all_arms_start_from_the_same_weights_and_see_the_same_batches(spy):
    found = [spy(task) for task in (NONE, BATCH, Task("layer", "after", 0.5, 0))]
    weights = {lines[0]["initial_weights"] for lines, _ in found}
    assert len(weights) == 1
    batches = [torch.cat([x for x, _ in seen]) for _, seen in found]
    assert len(batches[0]) == 2 * 40
    assert all(torch.equal(batches[0], other) for other in batches[1:])
    lines, seen = spy(Task("none", None, 0.1, 1))
    assert lines[0]["initial_weights"] not in weights
    assert not torch.equal(torch.cat([x for x, _ in seen]), batches[0])


def test_every_step_is_computed_on_one_thread(spy):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        _, seen = spy(BATCH)
    finally:
        torch.set_num_threads(before)
    assert {threads for _, threads in seen} == {1}


def test_epochs_differ_in_the_order_of_the_samples_but_not_in_the_samples(spy):
    _, seen = spy(NONE)
    first, second = torch.cat([x for x, _ in seen[:5]]), torch.cat([x for x, _ in seen[5:]])
    assert not torch.equal(first, second)
    assert torch.equal(first[first[:, 0].argsort()], second[second[:, 0].argsort()])


def test_a_run_leaves_the_process_as_it_was():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    environment = dict(os.environ)
    run(tiny.config(dropout=0.5))
    assert torch.equal(torch.rand(3), expected)
    assert dict(os.environ) == environment


@pytest.mark.parametrize(
    ("samples", "size", "steps"), [(40, 8, 5), (41, 8, 5), (42, 8, 6), (9, 8, 1), (3, 8, 1)]
)
def test_a_last_batch_of_one_sample_is_left_out_for_every_arm(samples, size, steps):
    for task in (NONE, BATCH):
        lines = run(tiny.config(batch_size=size, epochs=2), task, tiny.dataset(train=samples))
        assert lines[0]["steps_per_epoch"] == steps
        assert [line["step"] for line in of_kind(lines, "epoch")] == [steps, 2 * steps]


def test_a_run_has_every_line_of_the_format():
    lines = run(tiny.config(epochs=3))
    assert lines[0]["kind"] == "run"
    assert lines[-1]["kind"] == "final"
    assert [line["epoch"] for line in of_kind(lines, "epoch")] == [1, 2, 3]
    activations = of_kind(lines, "activation")
    sites = lines[0]["sites"]
    assert len(sites) == 2
    assert {(line["epoch"], line["site"], line["where"]) for line in activations} == {
        (epoch, site, where) for epoch in range(4) for site in sites for where in ("input", "output")
    }
    assert {line["epoch"] for line in activations if "histogram" in line} == {0, 3}
    prediction = of_kind(lines, "prediction")[0]
    assert prediction["index"] == [0, 3, 5]
    assert len(prediction["predicted"]) == len(prediction["confidence"]) == 3
    assert all(1 / 3 <= value <= 1 for value in prediction["confidence"])
    final = lines[-1]
    confusion = torch.tensor(final["confusion"])
    assert confusion.sum() == 15
    assert confusion.trace() / 15 == pytest.approx(final["test_accuracy"], abs=1e-6)
    assert final["diverged"] is False
    assert final["diverged_at"] is None
    assert all(line.items() >= BATCH.identity().items() for line in lines)
    seconds = [line["seconds"] for line in of_kind(lines, "epoch")]
    assert seconds == sorted(seconds)
    assert final["train_seconds"] == seconds[-1] > 0


def test_in_a_long_run_activations_are_measured_after_some_epochs_only():
    lines = run(tiny.config(epochs=100))
    epochs = sorted({line["epoch"] for line in of_kind(lines, "activation")})
    assert epochs == list(range(0, 101, 5))
    assert {line["epoch"] for line in of_kind(lines, "activation") if "histogram" in line} == {0, 100}
    assert len(of_kind(lines, "epoch")) == 100


def test_training_reaches_what_is_easy():
    lines = run(tiny.config(epochs=30, lrs="0.1"), BATCH)
    epochs = of_kind(lines, "epoch")
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"] / 2
    assert lines[-1]["test_accuracy"] > 0.8


def test_train_loss_and_accuracy_are_means_over_samples_of_the_epoch():
    # At a rate of nearly nothing every batch sees the initial weights.
    task = Task("none", None, 1e-12, 0)
    data = tiny.dataset(train=43)
    lines = train(tiny.config(epochs=1, batch_size=8), task, data, [])
    same = train(tiny.config(epochs=1, batch_size=64), task, data, [])
    for name in ("train_loss", "train_accuracy"):
        assert of_kind(lines, "epoch")[0][name] == pytest.approx(of_kind(same, "epoch")[0][name], rel=1e-5)


def test_evaluation_is_without_dropout():
    lines = run(tiny.config(dropout=0.9), Task("none", None, 1e-12, 0))
    first, second = of_kind(lines, "epoch")
    assert first["val_loss"] == pytest.approx(second["val_loss"], rel=1e-6)
    assert first["train_loss"] != pytest.approx(second["train_loss"], rel=1e-3)


def test_a_network_that_works_in_place_on_its_input_does_not_change_the_data(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(MODEL.replace("return self.last", "x.mul_(2); return self.last"))
    data, same = tiny.dataset(), tiny.dataset()
    run(tiny.config(model=f"{path}:build", norms="none"), NONE, data)
    for name in ("train", "validation", "test"):
        assert torch.equal(getattr(data, name).x, getattr(same, name).x)


def test_a_run_that_diverges_says_so_and_stops(tmp_path):
    lines = run(tiny.config(epochs=20), Task("none", None, 1e30, 0))
    epochs, final = of_kind(lines, "epoch"), lines[-1]
    assert final["diverged"] is True
    assert final["diverged_at"] == epochs[-1]["epoch"] < 20
    assert epochs[-1]["step"] % 5 != 0  # it does not train on with numbers that mean nothing
    assert epochs[-1]["val_loss"] is None
    assert epochs[-1]["val_accuracy"] is None
    assert final["test_loss"] is final["test_accuracy"] is final["confusion"] is None
    assert not of_kind(lines, "prediction")
    with Store(tmp_path / "out", {"kind": "config", "schema": 1, "settings": {}}) as store:
        store.append(lines)
    assert read(tmp_path / "out").runs[final["run"]].final["diverged"] is True


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("task", [NONE, BATCH], ids=lambda task: task.arm)
def test_other_precisions_train_too(precision, task):
    lines = run(tiny.config(precision=precision), task)
    assert lines[-1]["diverged"] is False
    exact = run(tiny.config(), task)
    assert lines[-1]["test_loss"] == pytest.approx(exact[-1]["test_loss"], rel=0.2)
    assert lines[-1]["test_loss"] != exact[-1]["test_loss"]
    assert len(of_kind(lines, "activation")) == len(of_kind(exact, "activation"))


OPTIONS = [
    ({"optimizer": "adam"}, {}),
    ({"optimizer": "adamw"}, {}),
    ({"more": {"momentum": 0.9}}, {}),
    ({"more": {"momentum": 0.9, "nesterov": True}}, {"more": {"momentum": 0.9}}),
    ({"more": {"weight_decay": 0.1}}, {}),
    ({"more": {"label_smoothing": 0.1}}, {}),
    ({"dropout": 0.5}, {}),
    ({"optimizer": "adam", "more": {"beta1": 0.5}}, {"optimizer": "adam"}),
    ({"optimizer": "adam", "more": {"beta2": 0.5}}, {"optimizer": "adam"}),
    ({"optimizer": "adamw", "more": {"weight_decay": 0.0}}, {"optimizer": "adamw"}),
]


@pytest.mark.parametrize(("values", "without"), OPTIONS, ids=lambda value: str(value)[:60])
def test_every_option_reaches_the_training(values, without):
    changed, plain = (run(tiny.config(**given))[-1]["test_loss"] for given in (values, without))
    assert changed != plain


def test_adamw_without_weight_decay_is_adam():
    adamw = run(tiny.config(optimizer="adamw", more={"weight_decay": 0.0}))
    assert adamw[-1]["test_loss"] == pytest.approx(
        run(tiny.config(optimizer="adam"))[-1]["test_loss"], rel=1e-5
    )


def test_progress_is_told_of_each_epoch():
    told = []
    lines = run(progress=told.append)
    assert told == of_kind(lines, "epoch")


RAISES = """
import torch
class Net(torch.nn.Module):
    calls = 0
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(6, 3)
        self.act = torch.nn.ReLU()
        self.last = torch.nn.Linear(3, 3)
    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            Net.calls += 1
            if Net.calls > 3:
                ACTION
        return self.last(self.act(self.layer(x)))
def build():
    return Net()
"""


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("raise ValueError('no\\nmore')", "ValueError: no more"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise MemoryError", "MemoryError: no message"),
    ],
)
def test_a_model_that_raises_in_training_is_quoted_in_one_line(tmp_path, action, said):
    path = tmp_path / "net.py"
    path.write_text(RAISES.replace("ACTION", action))
    config = tiny.config(model=f"{path}:build", norms="none")
    with pytest.raises(ModelError) as caught:
        run(config, NONE)
    assert str(caught.value) == f"--model '{path}:build' failed in training (none-lr0.1-seed0): {said}"
