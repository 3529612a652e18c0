import math

import numpy as np
import pytest
import torch
from torch import nn

from batchnorm import probes
from tests.probes import oracle
from tests.probes.nets import batch, cross_entropy, everything

STEPS = [-0.5, 0.0, 1e-3, 0.1, 2.0]


def test_a_quadratic_loss_is_a_parabola_along_its_gradient():
    model = oracle.Quadratic()
    found = probes.loss_along_gradient(model, oracle.call, STEPS)
    g = model.gradient(model.start)
    np.testing.assert_allclose(found.losses, [model.value(model.start - s * g) for s in STEPS], rtol=1e-12)
    np.testing.assert_allclose(found.distances, np.abs(STEPS) * np.linalg.norm(g), rtol=1e-12)
    assert found.steps.tolist() == STEPS
    assert found.loss == pytest.approx(model.value(model.start), rel=1e-13)
    assert found.gradient_norm == pytest.approx(np.linalg.norm(g), rel=1e-13)
    assert found.loss_range == (found.losses.min(), found.losses.max())
    assert {tensor.dtype for tensor in (found.steps, found.distances, found.losses)} == {torch.float64}


def test_each_point_is_a_step_of_gradient_descent_with_batch_norm_and_dropout_in_training():
    model = everything()
    found = probes.loss_along_gradient(model, cross_entropy, STEPS)
    for step, loss in zip(STEPS, found.losses.tolist(), strict=True):
        moved = oracle.after_a_step(model, cross_entropy, step)
        with torch.random.fork_rng():
            assert loss == pytest.approx(cross_entropy(moved).item(), rel=1e-12)


def test_dropout_drops_the_same_values_everywhere_so_a_step_of_0_gives_the_loss_itself():
    found = probes.loss_along_gradient(everything(), cross_entropy, [0.0, 0.0])
    assert found.losses.tolist() == [found.loss, found.loss]
    assert found.distances.tolist() == [0, 0]


def test_a_shuffled_loader_gives_the_same_batch_at_every_point():
    x, y = batch(count=8)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4, shuffle=True)

    def loss(model):
        x, y = next(iter(loader))
        return nn.functional.cross_entropy(model(x), y)

    found = probes.loss_along_gradient(everything(), loss, [0.0, 0.0, 0.0])
    assert found.losses.tolist() == [found.loss] * 3


def test_evaluation_uses_the_running_statistics():
    model = everything().eval()
    model.ours.running_var.fill_(4)
    found = probes.loss_along_gradient(model, cross_entropy, [0.3])
    assert found.loss == cross_entropy(model).item()
    assert found.losses.item() == pytest.approx(
        cross_entropy(oracle.after_a_step(model, cross_entropy, 0.3)).item()
    )


def test_frozen_parameters_stay_where_they_are():
    model = oracle.Quadratic()
    model.tail.requires_grad_(False)
    found = probes.loss_along_gradient(model, oracle.call, [0.7])
    g = model.gradient(model.start)
    g[4:] = 0
    assert found.losses.item() == pytest.approx(model.value(model.start - 0.7 * g), rel=1e-12)


def test_a_loss_that_differentiates_inside():
    def penalty(model):
        x = batch()[0].requires_grad_()
        return torch.autograd.grad(model(x).sum(), x, create_graph=True)[0].square().sum()

    model = everything()
    model.drop.eval()
    found = probes.loss_along_gradient(model, penalty, [0.01])
    assert found.losses.item() == pytest.approx(
        penalty(oracle.after_a_step(model, penalty, 0.01)).item(), rel=1e-10
    )


def test_bfloat16_moves_to_the_values_it_has():
    model = everything(torch.bfloat16)
    model.drop.eval()
    for norm in (model.ours, model.theirs):
        nn.init.ones_(norm.bias)  # 0 has neighbours near enough for any step
    found = probes.loss_along_gradient(model, cross_entropy, [1e-9, 0.5])
    assert found.distances[0] == 0
    assert found.losses[0] == found.loss
    gradients = oracle.gradients(model, cross_entropy)
    assert found.distances[1].item() == pytest.approx(
        0.5 * math.sqrt(oracle.product(gradients, gradients)), rel=0.02
    )


def test_a_loss_that_overflows_is_recorded_as_it_is():
    model = nn.Linear(1, 1, bias=False)
    found = probes.loss_along_gradient(
        model, lambda model: model(torch.ones(1, 1)).square().sum().exp(), [0.0, 1e20]
    )
    assert found.losses[1] == math.inf
    assert found.loss_range[1] == math.inf


def test_a_shared_parameter_moves_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(1, 1, bias=False)
            self.two = self.one

        def forward(self):
            return self.two(self.one(torch.ones(1, 1))).sum()

    model = Twice()
    nn.init.constant_(model.one.weight, 3)
    assert probes.loss_along_gradient(model, oracle.call, [0.25]).losses.item() == (3 - 0.25 * 6) ** 2
