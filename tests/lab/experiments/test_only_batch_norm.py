import pytest
import torch

from batchnorm.lab.experiment import Task
from batchnorm.lab.experiments import load
from batchnorm.lab.experiments import only_batch_norm as module
from batchnorm.lab.models import construct
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "only-batch-norm"
SMALLER = {"depth": 14, "steps": 2}


def test_contract():
    check(NAME, **SMALLER)


def records(batch, head):
    """Test accuracies of all rates; the middle rate is the best on the validation split."""
    lines = doctored(miniature(NAME, **SMALLER), {"validation": 0.5, "test": 0.0})
    for arm, test in (("batch", batch), ("head", head), ("all", 0.95)):
        best = module.RATES[arm][1]
        for seed in range(6):
            accuracy = test + 0.001 * (seed - 2.5) * (arm == "batch")
            lines = doctored(lines, {"validation": 0.6, "test": accuracy}, arm=arm, lr=best, seed=seed)
    return lines


@pytest.mark.parametrize(
    ("batch", "head", "verdict"),
    [(0.85, 0.6, "reproduced"), (0.72, 0.6, "reproduced"), (0.69, 0.6, "not reproduced"), (0.5, 0.6, "not reproduced")],
)  # fmt: skip
def test_verdict_turns(batch, head, verdict):
    found = load(NAME).verdict(records(batch, head))
    assert found.verdict == verdict
    assert found.value == pytest.approx(batch - head)
    assert bool(found.contradiction) == (batch < head)


def test_a_mean_above_the_bound_is_not_enough():
    lines = doctored(records(0.75, 0.6), {"test": 0.5}, arm="head", lr=module.RATES["head"][1], seed=0)
    lines = doctored(lines, {"test": 0.7}, arm="head", lr=module.RATES["head"][1], seed=1)
    assert load(NAME).verdict(lines).verdict == "not reproduced"


def test_what_diverged_is_not_chosen_and_an_arm_that_only_diverged_meets_nothing():
    best = module.RATES["batch"][1]
    lost = doctored(records(0.9, 0.6), {"validation": None, "test": None}, arm="batch", lr=best, seed=1)
    assert load(NAME).verdict(lost).value == pytest.approx(-0.6)
    nothing = doctored(lost, {"validation": None, "test": None}, arm="batch")
    found = load(NAME).verdict(nothing)
    assert (found.verdict, found.value) == ("not reproduced", None)
    assert load(NAME).figures(nothing)


def net():
    return construct("resnet", "batch", input_shape=(1, 8, 8), num_classes=10, depth=14, width=8, stride=1)


def test_an_arm_trains_what_it_is_named_after_and_nothing_else():
    # 13 batch norms: 5 of 8 channels, 4 of 16 and 4 of 32, each with weight and bias; the output is 32 x 10 + 10.
    norms = 2 * (5 * 8 + 4 * 16 + 4 * 32)
    whole = net()
    assert module._choose(whole, "batch") == norms == 464
    assert {
        name.rsplit(".", 2)[-2].rstrip("12") for name, p in whole.named_parameters() if p.requires_grad
    } == {"norm"}
    assert module._choose(whole, "head") == 330
    assert {name for name, p in whole.named_parameters() if p.requires_grad} == {
        "head.3.weight",
        "head.3.bias",
    }
    assert module._choose(whole, "all") == sum(p.numel() for p in whole.parameters())


def test_what_is_frozen_stays_where_the_seed_put_it(monkeypatch):
    made = []

    def watched(*arguments, **options):
        made.append(construct(*arguments, **options))
        return made[-1]

    monkeypatch.setattr("batchnorm.lab.models.construct", watched)
    for arm in ("batch", "head"):
        torch.manual_seed(0)
        module.run(Task.of(arm, 0, depth=14, lr=1.0, steps=2, data="digits"))
    torch.manual_seed(0)
    fresh = dict(net().named_parameters())
    norms, head = (dict(each.named_parameters()) for each in made)
    for name, first in fresh.items():
        assert torch.equal(norms[name], first) == ("norm" not in name), name
        assert torch.equal(head[name], first) == ("head" not in name), name
