import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from batchnorm.lab.loop import batches, evaluate, fit
from batchnorm.lab.splits import Split


def clouds(samples=20):
    torch.manual_seed(0)
    return Split(torch.randn(samples, 3), torch.arange(samples) % 4)


def linear():
    torch.manual_seed(1)
    return nn.Linear(3, 4)


def test_steps_are_those_of_sgd_with_momentum_in_float64():
    data, net = clouds(), linear()
    weight, bias = (p.detach().double().numpy().copy() for p in net.parameters())
    found = fit(net, data, lr=0.3, steps=7, batch_size=6, seed=5, momentum=0.9)
    x, y = data.x.double().numpy(), data.y.numpy()
    speed_w, speed_b = np.zeros_like(weight), np.zeros_like(bias)
    losses = []
    for chosen in itertools.islice(batches(20, 6, 5), 7):
        part, label = x[chosen], y[chosen]
        logits = part @ weight.T + bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        losses.append(-np.log(p[range(6), label]).mean())
        g = (p - np.eye(4)[label]) / 6
        speed_w, speed_b = 0.9 * speed_w + g.T @ part, 0.9 * speed_b + g.sum(0)
        weight, bias = weight - 0.3 * speed_w, bias - 0.3 * speed_b
    assert found.losses == pytest.approx(losses, rel=1e-5)
    assert not found.diverged
    np.testing.assert_allclose(net.weight.detach().numpy(), weight, atol=1e-5)


def test_a_rate_that_decays_falls_in_a_straight_line():
    net, rates = linear(), []
    before = net.bias.detach().clone()
    data = Split(torch.zeros(2, 3), torch.tensor([0, 1]))

    def moved(step):
        now = net.bias.detach().clone()
        # At inputs of zero the gradient is that of the bias alone: softmax minus the share of each class.
        gradient = torch.softmax(before.double(), 0) - torch.tensor([0.5, 0.5, 0, 0], dtype=torch.float64)
        rates.append(((before - now).double() / gradient).mean().item())
        before.copy_(now)

    fit(net, data, lr=0.4, steps=4, batch_size=2, seed=0, decay=True, after=moved)
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1], rel=1e-4)


def test_an_epoch_has_every_sample_at_most_once_and_the_next_is_in_another_order():
    found = [batch.tolist() for batch in itertools.islice(batches(20, 6, 3), 6)]
    first, second = ([*itertools.chain(*part)] for part in (found[:3], found[3:]))
    assert len(set(first)) == len(set(second)) == 18
    assert first != second
    assert found == [batch.tolist() for batch in itertools.islice(batches(20, 6, 3), 6)]
    assert found != [batch.tolist() for batch in itertools.islice(batches(20, 6, 4), 6)]
    assert len(next(batches(4, 10, 0))) == 4


def test_batches_do_not_depend_on_what_a_network_draws():
    def losses(dropout):
        net = nn.Sequential(linear(), nn.Dropout(dropout))
        torch.manual_seed(9)
        return fit(net, clouds(), lr=0.0, steps=4, batch_size=5, seed=2).losses

    expected = losses(0.0)
    torch.rand(100)
    assert losses(0.0) == expected
    net, data = nn.Sequential(linear(), nn.Dropout(0.5)), clouds()
    seen = []
    net[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    fit(net, data, lr=0.0, steps=4, batch_size=5, seed=2)
    for x, chosen in zip(seen, batches(20, 5, 2), strict=False):
        assert torch.equal(x, data.x[chosen])


def test_a_loss_that_is_not_finite_ends_the_training_before_its_step():
    net = linear()
    net.weight.data[0, 0] = math.inf
    found = fit(net, clouds(), lr=0.1, steps=5, batch_size=5, seed=0)
    assert found.diverged
    assert len(found.losses) == 1
    assert not net.weight.isnan().any()


def test_after_is_called_with_each_step_and_may_evaluate():
    net, data, steps = nn.Sequential(linear(), nn.BatchNorm1d(4)), clouds(), []

    def after(step):
        steps.append((step, evaluate(net, data).accuracy))

    fit(net, data, lr=0.1, steps=3, batch_size=5, seed=0, after=after)
    assert [step for step, _ in steps] == [1, 2, 3]
    assert net[1].num_batches_tracked == 3  # evaluation is over when the next step starts


def test_evaluation_is_that_of_the_whole_split_in_evaluation_mode():
    net = nn.Sequential(linear(), nn.BatchNorm1d(4))
    data = Split(torch.randn(1000, 3), torch.arange(1000) % 4)
    found = evaluate(net, data)
    assert not net.training
    logits = (data.x.double() @ net[0].weight.double().T + net[0].bias.double()).detach().numpy()
    logits = logits / math.sqrt(1 + 1e-5)
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found.accuracy == pytest.approx((logits.argmax(1) == data.y.numpy()).mean(), abs=1e-6)
    assert found.loss == pytest.approx(-np.log(share[range(1000), data.y]).mean(), rel=1e-5)


def test_what_follows_a_step_can_end_the_training():
    whole, cut = linear(), linear()
    fit(whole, clouds(), lr=0.3, steps=3, batch_size=6, seed=5)
    found = fit(cut, clouds(), lr=0.3, steps=9, batch_size=6, seed=5, after=lambda step: step == 3)
    assert len(found.losses) == 3
    assert torch.equal(cut.weight, whole.weight)
