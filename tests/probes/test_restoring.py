"""Every probe leaves a model bit-exact, whatever happens on the way."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from batchnorm import probes
from tests.probes.nets import Kept, batch, cross_entropy, everything

AT = ["ours", "relu", "theirs"]
OF_THE_LOSS = {
    "gradient_norms": lambda model, loss: probes.gradient_norms(model, loss),
    "activation_gradients": lambda model, loss: probes.activation_gradients(model, loss, AT),
    "activation_gradient_norms": lambda model, loss: probes.activation_gradient_norms(model, loss, AT),
    "loss_along_gradient": lambda model, loss: probes.loss_along_gradient(model, loss, [0.1, 1.0]),
    "gradient_predictiveness": lambda model, loss: probes.gradient_predictiveness(model, loss, [0.1, 1.0]),
    "covariate_shift": lambda model, loss: probes.covariate_shift(model, loss, lr=0.1),
    "top_hessian_eigenvalue": lambda model, loss: probes.top_hessian_eigenvalue(model, loss),
}
OF_ACTIVATIONS = {
    "activations": probes.activations,
    "activation_percentiles": probes.activation_percentiles,
    "moments_by_depth": probes.moments_by_depth,
    "stable_rank_by_depth": probes.stable_rank_by_depth,
}


def model_under_training():
    """With gradients, hooks, mixed modes and moved statistics."""
    model = everything()
    model.ours.register_forward_hook(lambda *_: None)
    model.first.weight.register_hook(lambda grad: grad)
    cross_entropy(model).backward()
    model.theirs.eval()
    return model


def test_every_probe_is_in_these_tables():
    functions = {name for name in probes.__all__ if name.islower()}
    assert functions - {*OF_THE_LOSS, *OF_ACTIVATIONS} == {"batch_statistics", "percentiles", "stable_rank"}


@pytest.mark.parametrize("name", OF_THE_LOSS)
def test_a_probe_of_the_loss_leaves_everything(name):
    model = model_under_training()
    kept = Kept(model)
    OF_THE_LOSS[name](model, cross_entropy)
    kept.check()


@pytest.mark.parametrize("name", OF_ACTIVATIONS)
def test_a_probe_of_activations_leaves_everything(name):
    model, (x, _) = model_under_training(), batch()
    kept, value = Kept(model), x.clone()
    OF_ACTIVATIONS[name](model, x, AT)
    kept.check()
    assert torch.equal(x, value)


class Unruly(nn.Module):
    """A pass that writes to whatever it can reach, and raises at a chosen call, in its middle."""

    def __init__(self, fails_at):
        super().__init__()
        self.inner = everything()
        self.ours, self.relu, self.theirs = self.inner.ours, self.inner.relu, self.inner.theirs
        self.fails_at, self.seen = fails_at, {}

    def forward(self, x):
        self.seen["calls"] = self.seen.get("calls", 0) + 1
        type(self).total += 1
        self.last = x
        random.random(), np.random.rand(), torch.rand(3)
        self.inner.unused.weight.data.mul_(2)
        self.inner.unused.bias = None
        self.inner.theirs.train(not self.inner.theirs.training)
        self.register_forward_hook(lambda *_: None)
        y = self.inner(x)
        if type(self).total == self.fails_at:
            raise LookupError("midway")
        return y


# How many passes each makes, which is what its docstring promises; here for 2 steps and 6 layers.
PASSES = {
    "gradient_norms": 1,
    "activation_gradients": 1,
    "activation_gradient_norms": 1,
    "loss_along_gradient": 3,
    "gradient_predictiveness": 3,
    "covariate_shift": 6,
    "top_hessian_eigenvalue": 1,
}


@pytest.mark.parametrize("name", OF_THE_LOSS)
def test_also_from_a_model_that_writes_everywhere_and_raises_at_any_pass(name):
    for fails_at in (*range(1, PASSES[name] + 1), 0):
        Unruly.total = 0
        model = Unruly(fails_at)
        kept = Kept(model, versions=False)
        if fails_at:
            with pytest.raises(LookupError, match="midway"):
                OF_THE_LOSS[name](model, lambda model: model(batch()[0]).square().mean())
        else:
            OF_THE_LOSS[name](model, lambda model: model(batch()[0]).square().mean())
            assert Unruly.total == PASSES[name]
        kept.check()


@pytest.mark.parametrize("name", OF_ACTIVATIONS)
@pytest.mark.parametrize("fails_at", [0, 1])
def test_activations_of_such_a_model(name, fails_at):
    Unruly.total = 0
    model = Unruly(fails_at)
    kept = Kept(model, versions=False)
    try:
        OF_ACTIVATIONS[name](model, batch()[0], AT)
    except LookupError:
        assert fails_at
    kept.check()


@pytest.mark.parametrize("name", OF_THE_LOSS)
def test_also_when_a_loader_raises_midway(name):
    def batches():
        yield batch()
        raise OSError("the disk is gone")

    def loss(model):
        return sum(nn.functional.cross_entropy(model(x), y) for x, y in batches())

    model = model_under_training()
    kept = Kept(model)
    with pytest.raises(OSError, match="the disk is gone"):
        OF_THE_LOSS[name](model, loss)
    kept.check()


@pytest.mark.parametrize("name", ["gradient_norms", "loss_along_gradient", "gradient_predictiveness"])
def test_a_loss_that_calls_backward_itself_adds_nothing_to_the_gradients(name):
    def loss(model):
        value = cross_entropy(model)
        value.backward(retain_graph=True)
        return value

    model = model_under_training()
    kept = Kept(model)
    OF_THE_LOSS[name](model, loss)
    kept.check()


@pytest.mark.parametrize("name", OF_THE_LOSS)
def test_a_backward_that_is_still_to_come_gives_the_same_bits(name):
    def gradients(probe):
        model = everything().eval()  # in training the statistics would move, with or without a probe
        model.drop.p = 0
        value = cross_entropy(model)
        if probe is not None:
            probe(model, cross_entropy)
        value.backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    for probed, plain in zip(gradients(OF_THE_LOSS[name]), gradients(None), strict=True):
        assert torch.equal(probed, plain)


@pytest.mark.parametrize("name", OF_THE_LOSS)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_callers_without_gradients_get_the_same_result(name, context):
    model = everything()
    expected = OF_THE_LOSS[name](model, cross_entropy)
    with context():
        found = OF_THE_LOSS[name](model, cross_entropy)
    assert repr(found) == repr(expected)


@pytest.mark.parametrize("name", OF_ACTIVATIONS)
def test_activations_inside_inference_mode(name):
    model, (x, _) = everything(), batch()
    expected = OF_ACTIVATIONS[name](model, x, AT)
    kept = Kept(model)
    with torch.inference_mode():
        found = OF_ACTIVATIONS[name](model, x, AT)
    kept.check()
    assert repr(found) == repr(expected)


@pytest.mark.parametrize("name", OF_THE_LOSS)
def test_the_result_does_not_depend_on_how_often_it_was_asked_for(name):
    model = everything()  # dropout at work, statistics by cumulative average
    first = OF_THE_LOSS[name](model, cross_entropy)
    assert repr(OF_THE_LOSS[name](model, cross_entropy)) == repr(first)
