import math

import pytest
import torch
from torch import nn

from batchnorm.lab import batch_sizes
from batchnorm.lab.batch_sizes import best_lr, errors, layers, mean_errors, rates_in_words, train
from batchnorm.lab.data import cached
from batchnorm.lab.splits import Dataset, Split


def line(lr, seed, validation, test, batch=4):
    return {
        "arm": "batch",
        "batch": batch,
        "lr": lr,
        "seed": seed,
        "validation_error": validation,
        "test_error": test,
    }


RECORDS = [
    line(0.1, 0, 4.0, 9.0), line(0.1, 1, 6.0, 7.0),
    line(0.2, 0, 1.0, 5.0), line(0.2, 1, 7.0, 3.0),
    line(0.4, 0, 0.0, 0.0), line(0.4, 1, None, None),
    line(0.8, 0, None, None, batch=8), line(0.8, 1, 2.0, 2.0, batch=8),
]  # fmt: skip


def test_the_rate_with_the_least_mean_validation_error_is_chosen_and_none_that_diverged():
    assert best_lr(RECORDS, arm="batch", batch=4) == 0.2
    assert best_lr(RECORDS, arm="batch", batch=8) is None
    assert errors(RECORDS, arm="batch", batch=4) == {0: 5.0, 1: 3.0}
    assert errors(RECORDS, arm="batch", batch=8) == {}
    assert mean_errors(RECORDS, "batch") == {4: 4.0, 8: None}
    assert rates_in_words(RECORDS, "batch") == "0.2 at batch 4, none at batch 8"


def test_layers_are_those_of_the_arm():
    batch, group = layers("batch", momentum=0.03)(16, 4), layers("group", momentum=0.03)(16, 4)
    renorm = layers("renorm", momentum=0.03, warmup=7)(16, 4)
    ghost = layers("ghost", momentum=0.03, ghost=5)(16, 4)
    assert (batch.momentum, group.num_groups, renorm.momentum, renorm.warmup) == (0.03, 2, 0.03, 7)
    assert (ghost.momentum, ghost.virtual_batch_size) == (0.03, 5)


def test_arms_have_equal_weights_batches_and_steps_and_average_over_the_same_samples(monkeypatch):
    from batchnorm.lab import loop

    seen = {}
    real = loop.fit

    def spy(net, split, **settings):
        norm = next(m for m in net.modules() if getattr(m, "num_features", None) == 16)
        weights = [m.weight.detach().clone() for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        seen[len(seen)] = (norm.momentum, weights, split, settings)
        return real(net, split, **settings)

    monkeypatch.setattr(loop, "fit", spy)
    for arm, batch in (("batch", 4), ("renorm", 4), ("batch", 64)):
        train(cached("digits"), arm, seed=3, lr=0.01, batch=batch, samples=64, epochs=1)
    assert [seen[i][0] for i in range(3)] == [0.01, 0.01, 0.1]
    for one, other in zip(seen[0][1], seen[1][1], strict=True):
        assert torch.equal(one, other)
    assert [seen[i][3]["steps"] for i in range(3)] == [16, 16, 1]
    assert {seen[i][3]["seed"] for i in range(3)} == {3}
    assert seen[0][2].x.shape == (64, 1, 8, 8)


def test_errors_are_those_of_the_splits_in_per_cent(monkeypatch):
    x = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 2
    splits = Split(x, y), Split(x, 1 - y), Split(x[:10], torch.ones(10, dtype=torch.long))
    data = Dataset("made", ("a", "b"), *splits, digest="")
    found = train(data, "batch", seed=0, lr=0.05, batch=8, steps=60)
    # Validation has the training images with the other label.
    assert found["train_error"] + found["validation_error"] == pytest.approx(100)
    assert found["train_error"] < 20
    assert found["test_error"] == pytest.approx(50, abs=20)
    assert found["steps_done"] == 60


def test_what_diverged_has_no_error():
    found = train(cached("digits"), "group", seed=0, lr=1e30, batch=8, samples=64, epochs=1)
    assert math.isnan(found["test_error"])
    assert found["steps_done"] < 8


def test_images_are_averaged_and_a_longer_split_is_cut_alike_each_time():
    split = Split(torch.arange(5 * 32 * 32, dtype=torch.float32).reshape(5, 1, 32, 32), torch.arange(5))
    whole, some = batch_sizes._shrunk(split), batch_sizes._shrunk(split, 2)
    assert whole.x[0, 0, 0, 0] == split.x[0, 0, :4, :4].mean()
    assert len(some.y) == 2
    assert torch.equal(some.x, whole.x[some.y])
    assert torch.equal(some.y, batch_sizes._shrunk(split, 2).y)
