import math

import numpy as np
import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm import probes
from batchnorm.errors import ArgumentError
from tests.probes import oracle
from tests.probes.nets import cross_entropy, everything


def spectrum(model, loss):
    """All eigenvalues, from the whole matrix."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    start = [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def of_flat(flat):
        parts = flat.split([part.numel() for part in start])
        values = {name: part.view_as(own) for name, part, own in zip(names, parts, start, strict=True)}
        fresh = {name: buffer.clone() for name, buffer in buffers.items()}
        return loss(lambda *inputs: torch.func.functional_call(model, values | fresh, inputs))

    flat = torch.cat([part.reshape(-1) for part in start])
    return np.linalg.eigvalsh(torch.autograd.functional.hessian(of_flat, flat).numpy())


def net(norm):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 5), norm(), nn.Tanh(), nn.Linear(5, 2)).double()


X = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
NORMS = {
    "none": nn.Identity,
    "torch's": lambda: nn.BatchNorm1d(5),
    "ours": lambda: bn.BatchNorm1d(5),
    "ghost": lambda: bn.GhostBatchNorm1d(5, virtual_batch_size=4),
    "layer": lambda: nn.LayerNorm(5),
    "no affine": lambda: bn.BatchNorm1d(5, affine=False),
}


def loss(model):
    return nn.functional.cross_entropy(model(X), torch.arange(12) % 2)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_it_is_the_largest_eigenvalue_of_the_whole_matrix(norm, training):
    model = net(NORMS[norm]).train(training)
    expected = spectrum(model, loss)[-1]
    found = probes.top_hessian_eigenvalue(model, loss, tolerance=1e-8)
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.converged
    assert found.residual <= 1e-8 * found.value


def test_images():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), bn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)
    ).double()
    x = torch.randn(6, 1, 6, 6, dtype=torch.float64)

    def loss(model):
        return model(x).square().mean()

    found = probes.top_hessian_eigenvalue(model, loss, tolerance=1e-8)
    assert found.value == pytest.approx(spectrum(model, loss)[-1], rel=1e-8)


def test_a_recurrent_network():
    torch.manual_seed(0)
    model = bn.BatchNormLSTM(2, 2, max_steps=3).double()
    x = torch.randn(3, 4, 2, dtype=torch.float64)

    def loss(model):
        return model(x)[0][-1].square().sum()

    found = probes.top_hessian_eigenvalue(model, loss, tolerance=1e-7, max_iterations=100)
    assert found.value == pytest.approx(spectrum(model, loss)[-1], rel=1e-7)


def test_largest_by_sign_on_an_indefinite_quadratic_and_its_negative():
    model = oracle.Quadratic()
    values = np.linalg.eigvalsh(model.matrix)
    assert probes.top_hessian_eigenvalue(model, oracle.call).value == pytest.approx(values[-1], rel=1e-6)
    negative = probes.top_hessian_eigenvalue(model, lambda model: -model(), tolerance=1e-9)
    assert negative.value == pytest.approx(-values[0], rel=1e-8)


def test_frozen_parameters_are_no_part_of_it():
    model = oracle.Quadratic()
    model.tail.requires_grad_(False)
    expected = np.linalg.eigvalsh(model.matrix[:4, :4])[-1]
    assert probes.top_hessian_eigenvalue(model, oracle.call).value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("sign", [1, 0])
def test_a_loss_without_curvature(sign):
    found = probes.top_hessian_eigenvalue(nn.Linear(2, 1), lambda model: sign * model(torch.ones(3, 2)).sum())
    assert (found.value, found.residual, found.converged) == (0, 0, True)


def test_the_same_seed_gives_the_same_bits_and_dropout_holds_still():
    model = everything()
    first, second = (probes.top_hessian_eigenvalue(model, cross_entropy, seed=1) for _ in range(2))
    assert first == second
    other = probes.top_hessian_eigenvalue(model, cross_entropy, seed=2)
    assert other.value == pytest.approx(first.value, rel=1e-3)
    assert other != first


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_narrow_types(dtype, close):
    exact, narrow = net(NORMS["ours"]), net(NORMS["ours"]).to(dtype)
    exact.load_state_dict({name: value.double() for name, value in narrow.state_dict().items()})
    found = probes.top_hessian_eigenvalue(
        narrow, lambda model: nn.functional.cross_entropy(model(X.to(dtype)), torch.arange(12) % 2)
    )
    rounded = X.to(dtype).double()
    expected = spectrum(
        exact, lambda model: nn.functional.cross_entropy(model(rounded), torch.arange(12) % 2)
    )[-1]
    assert found.value == pytest.approx(expected, rel=close)


def test_too_few_iterations_are_reported():
    found = probes.top_hessian_eigenvalue(net(NORMS["ours"]), loss, tolerance=1e-12, max_iterations=2)
    assert (found.iterations, found.converged) == (2, False)
    assert found.residual > 1e-12 * found.value


def test_a_loss_that_is_not_finite_gives_nan():
    found = probes.top_hessian_eigenvalue(
        nn.Linear(1, 1), lambda model: model(torch.full((1, 1), math.inf)).square().sum()
    )
    assert math.isnan(found.value)
    assert not found.converged


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, "tolerance: expected a positive number, got 0.0"),
        ({"tolerance": math.nan}, "tolerance: expected a positive number, got nan"),
        ({"max_iterations": 0}, "max_iterations: expected 1 or more, got 0"),
    ],
)
def test_bad_arguments_are_typed_errors(options, message):
    with pytest.raises(ArgumentError, match=message):
        probes.top_hessian_eigenvalue(net(NORMS["none"]), loss, **options)
