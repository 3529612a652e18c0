import math

import numpy as np
import pytest
import torch
from torch import nn

from batchnorm import probes
from tests.probes import oracle
from tests.probes.nets import cross_entropy, everything

STEPS = [1e-3, 0.1, 2.0]


def test_on_a_quadratic_loss_the_gradient_changes_in_proportion_to_the_way():
    model = oracle.Quadratic()
    found = probes.gradient_predictiveness(model, oracle.call, STEPS)
    g = model.gradient(model.start)
    moved = [model.gradient(model.start - s * g) for s in STEPS]
    np.testing.assert_allclose(found.changes, [np.linalg.norm(m - g) for m in moved], rtol=1e-11)
    cosines = [m @ g / np.linalg.norm(m) / np.linalg.norm(g) for m in moved]
    np.testing.assert_allclose(found.cosines, cosines, rtol=1e-11)
    beta = np.linalg.norm(model.matrix @ g) / np.linalg.norm(g)
    np.testing.assert_allclose(found.smoothness, [beta] * 3, rtol=1e-9)
    assert found.effective_beta == pytest.approx(beta, rel=1e-9)
    assert found.effective_beta <= np.abs(np.linalg.eigvalsh(model.matrix)).max()
    assert found.change_range == (found.changes[0], found.changes[2])


def test_each_point_is_a_step_of_gradient_descent_with_batch_norm_and_dropout_in_training():
    model = everything()
    found = probes.gradient_predictiveness(model, cross_entropy, STEPS)
    first = oracle.gradients(model, cross_entropy)
    length = math.sqrt(oracle.product(first, first))
    largest = 0.0
    for index, step in enumerate(STEPS):
        now = oracle.gradients(oracle.after_a_step(model, cross_entropy, step), cross_entropy)
        change = oracle.distance(now, first)
        assert found.changes[index].item() == pytest.approx(change, rel=1e-9)
        assert found.distances[index].item() == pytest.approx(step * length, rel=1e-9)
        cosine = oracle.product(now, first) / length / math.sqrt(oracle.product(now, now))
        assert found.cosines[index].item() == pytest.approx(cosine, rel=1e-9)
        largest = max(largest, change / step / length)
    assert found.effective_beta == pytest.approx(largest, rel=1e-9)


def test_its_losses_are_those_along_the_gradient():
    model = everything()
    found = probes.gradient_predictiveness(model, cross_entropy, STEPS)
    losses = probes.loss_along_gradient(model, cross_entropy, STEPS)
    assert torch.equal(found.losses, losses.losses)
    assert (found.loss, found.gradient_norm, found.loss_range) == (
        losses.loss,
        losses.gradient_norm,
        losses.loss_range,
    )


def test_a_step_of_0_changes_nothing_although_dropout_draws():
    found = probes.gradient_predictiveness(everything(), cross_entropy, [0.0, 0.1])
    assert found.changes[0] == 0
    assert found.smoothness[0].isnan()
    assert found.effective_beta == found.smoothness[1]


def test_beta_is_by_the_way_gone_where_rounding_shortens_it_and_nan_where_there_is_none():
    model = nn.Linear(1, 1, bias=False, dtype=torch.float32)
    nn.init.ones_(model.weight)

    def half_square(model):
        return model(torch.ones(1, 1)).square().sum() / 2  # beta is 1

    short = 1.4 * 2.0**-24  # float32 has 2^-24 below 1
    assert probes.gradient_predictiveness(model, half_square, [short]).distances.item() == 2.0**-24
    assert probes.gradient_predictiveness(model, half_square, [short]).effective_beta == 1
    assert math.isnan(probes.gradient_predictiveness(model, half_square, [1e-9]).effective_beta)


def test_a_gradient_of_0():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    found = probes.gradient_predictiveness(model, lambda model: model(torch.ones(1, 1)).square().sum(), [1.0])
    assert found.changes.item() == 0
    assert math.isnan(found.cosines.item())
    assert math.isnan(found.effective_beta)


def test_large_gradients_have_a_cosine():
    model = nn.Linear(1, 1, bias=False).double()
    found = probes.gradient_predictiveness(
        model, lambda model: 1e200 * model(torch.ones(1, 1, dtype=torch.float64)).sum(), [1e-200]
    )
    assert found.cosines.item() == 1
