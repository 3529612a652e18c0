import math

import pytest
import torch

from batchnorm.lab import residual_depths as deep
from batchnorm.lab.data import cached
from batchnorm.lab.experiment import Scale, Task
from batchnorm.lab.loop import batches
from batchnorm.lab.models import residual_stack


def line(arm, seed, lr, train, test=None, blocks=128):
    return {
        "part": "training",
        "arm": arm,
        "seed": seed,
        "blocks": blocks,
        "lr": lr,
        "train": train,
        "test": test,
    }


def test_the_best_rate_has_the_highest_mean_and_a_run_that_diverged_counts_as_0():
    records = [
        line("batch", 0, 0.01, 0.7, 0.6),
        line("batch", 1, 0.01, 0.7, 0.5),
        line("batch", 0, 0.1, 1.0, 0.9),
        line("batch", 1, 0.1, None, None),
        line("batch", 0, 0.1, 1.0, 1.0, blocks=4),
        line("none", 0, 0.3, 1.0, 1.0),
    ]
    assert deep.best_rate(records, "batch", 128) == 0.01
    assert deep.accuracies(records, "batch", 128) == {0: 0.7, 1: 0.7}
    assert deep.accuracies(records, "batch", 128, "test") == {0: 0.6, 1: 0.5}
    assert deep.failing(records, "batch", 128) == 2
    assert deep.failing(records, "batch", 4) == 0
    assert deep.best_rate(records, "batch", 16) is None
    assert deep.accuracies(records, "batch", 16) == {}


def test_the_bound_counts_as_trained_and_a_diverged_run_does_not():
    records = [line("none", seed, 0.01, value) for seed, value in enumerate((0.9, 0.8999, None))]
    assert deep.failing(records, "none", 128) == 2


def test_rates_of_exploding_networks_shrink_as_their_gradients_grow():
    tasks = deep.training_tasks(["none", "batch"], 0, Scale(True, 3))
    rates = {
        (arm, blocks): [t["lr"] for t in tasks if (t.arm, t["blocks"]) == (arm, blocks)]
        for arm in ("none", "batch")
        for blocks in (4, 128)
    }
    assert rates["batch", 4] == rates["batch", 128] == [0.03, 0.1]
    assert rates["none", 4] == pytest.approx([0.01 / 4, 0.03 / 4, 0.1 / 4, 0.01], rel=0.05)
    assert rates["none", 128] == pytest.approx([s / 2.0**64 for s in (0.01, 0.03, 0.1)] + [0.01], rel=0.05)


@pytest.mark.parametrize(
    ("arm", "skip", "branch"),
    [("halved", math.sqrt(0.5), math.sqrt(0.5)), ("none", 1, 1), ("skipinit", 1, 0)],
)
def test_moments_are_those_of_the_products_in_float64(arm, skip, branch):
    task = Task.of(arm, 3, part="moments", blocks=5, width=32, draws=2)
    torch.manual_seed(3)
    (found,) = deep.measure_moments(task)
    torch.manual_seed(3)
    seconds, shares = [], []
    for _ in range(2):
        net = residual_stack(5, "none", width=32)
        x = torch.randn(256, 32).double()
        for block in net.blocks:
            added = x.clamp(min=0) @ block.branch.linear.weight.detach().double().T
            x = skip * x + branch * added
            seconds.append(x.square().mean().item())
            shares.append(added.square().mean().item() / seconds[-1])
    for field, values in (("second", seconds), ("share", shares)):
        expected = [math.sqrt(first * second) for first, second in zip(values[:5], values[5:], strict=True)]
        assert found[field] == pytest.approx(expected, rel=1e-5)


def test_training_is_sgd_with_momentum_on_the_batches_of_the_seed():
    task = Task.of("rescale", 1, part="training", blocks=2, width=8, lr=0.05, steps=3, data="digits")
    torch.manual_seed(1)
    (found,) = deep.measure_training(task)
    torch.manual_seed(1)
    data = cached("digits")
    net = residual_stack(2, "none", width=8, kind="rescale", inputs=1024, num_classes=10).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    order = batches(len(data.train.y), 64, 1)
    for _ in range(3):
        chosen = next(order)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(data.train.x[chosen].double()), data.train.y[chosen]).backward()
        optimizer.step()
    with torch.no_grad():
        for field, split in (("train", data.train), ("test", data.test)):
            hits = (net(split.x.double()).argmax(1) == split.y).double().mean().item()
            assert found[field] == pytest.approx(hits, abs=2 / len(split.y))
    assert found["ran"] == 3


def test_a_training_that_diverges_has_no_accuracy():
    task = Task.of("none", 0, part="training", blocks=64, width=8, lr=0.1, steps=9, data="digits")
    (found,) = deep.measure_training(task)
    assert math.isnan(found["train"])
    assert found["ran"] < 9
