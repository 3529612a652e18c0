import numpy as np
import pytest
import torch
from torch import nn

from batchnorm import probes
from tests.probes.nets import cross_entropy, everything


def test_a_network_of_two_layers_by_hand():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(6, 3)), generator.normal(size=(6, 2))
    model = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2, bias=False)).double()
    w1, b1, w2 = (parameter.detach().numpy() for parameter in model.parameters())
    hidden = 1 / (1 + np.exp(-(x @ w1.T + b1)))
    error = hidden @ w2.T - y
    back = (error @ w2) * hidden * (1 - hidden)
    expected = {"0.weight": back.T @ x, "0.bias": back.sum(0), "2.weight": error.T @ hidden}
    found = probes.gradient_norms(
        model, lambda model: (model(torch.from_numpy(x)) - torch.from_numpy(y)).square().sum() / 2
    )
    assert found.loss == pytest.approx((error**2).sum() / 2, rel=1e-13)
    assert list(found.parameters) == list(expected)
    for name, gradient in expected.items():
        assert found.parameters[name] == pytest.approx(np.linalg.norm(gradient), rel=1e-12)
    first = np.hypot(np.linalg.norm(expected["0.weight"]), np.linalg.norm(expected["0.bias"]))
    assert found.layers == pytest.approx({"0": first, "2": np.linalg.norm(expected["2.weight"])}, rel=1e-12)
    assert found.total == pytest.approx(np.hypot(*found.layers.values()), rel=1e-12)


def test_through_batch_norm_it_is_the_slope_of_the_loss():
    """A central difference of the loss along each parameter's own gradient."""
    model = everything()
    model.drop.eval()
    found = probes.gradient_norms(model, cross_entropy)
    for name, parameter in model.named_parameters():
        if name not in found.parameters or not found.parameters[name]:
            continue
        cross_entropy(model).backward()
        direction = parameter.grad / parameter.grad.norm()
        model.zero_grad()
        values = []
        for step in (-1e-5, 1e-5):
            with torch.no_grad():
                parameter += step * direction
                values.append(cross_entropy(model).item())
                parameter -= step * direction
        assert found.parameters[name] == pytest.approx((values[1] - values[0]) / 2e-5, rel=1e-6, abs=1e-9)


def test_frozen_parameters_have_no_entry_and_unused_ones_have_norm_0():
    found = probes.gradient_norms(everything(), cross_entropy)
    assert "second.bias" not in found.parameters
    assert found.parameters["unused.weight"] == found.layers["unused"] == 0
    assert found.layers["second"] == found.parameters["second.weight"] > 0


def test_the_gradients_of_a_bfloat16_model_are_added_up_in_float64():
    model = everything(torch.bfloat16)
    model.drop.eval()
    found = probes.gradient_norms(model, cross_entropy)
    cross_entropy(model).backward()
    for name, parameter in model.named_parameters():
        if found.parameters.get(name):
            expected = np.linalg.norm(parameter.grad.double().numpy())
            assert found.parameters[name] == pytest.approx(expected, rel=1e-14)
