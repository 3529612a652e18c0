import numpy as np
import pytest
import torch
from torch import nn

from batchnorm import probes
from batchnorm.errors import ArgumentError, ArgumentTypeError
from batchnorm.probes.evaluation import gradient, moved_to, norm, shifted, trainable
from tests.probes.nets import cross_entropy, everything


def test_trainable_parameters_are_those_that_require_a_gradient_each_once():
    model = everything()
    names = list(trainable(model))
    assert "second.bias" not in names
    assert not any(name.startswith("shared") for name in names)
    assert names[0] == "first.weight"
    assert len(names) == 2 + 2 + 1 + 2 + 2 + 2


def test_the_gradient_of_least_squares():
    generator = np.random.default_rng(0)
    x, y, w, b = generator.normal(size=(5, 3)), generator.normal(size=5), generator.normal(size=3), 0.5
    model = nn.Linear(3, 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(w)[None])
        model.bias.fill_(b)
    error = x @ w + b - y
    value, (weight, bias) = gradient(
        model,
        lambda model: (model(torch.from_numpy(x)).squeeze(1) - torch.from_numpy(y)).square().mean(),
        [model.weight, model.bias],
    )
    assert value == pytest.approx((error**2).mean(), rel=1e-14)
    np.testing.assert_allclose(weight[0], 2 * error @ x / 5, rtol=1e-13)
    assert bias.item() == pytest.approx(2 * error.mean(), rel=1e-13)


def test_a_parameter_without_use_has_gradient_zero_and_a_sparse_gradient_is_made_dense():
    model = nn.ModuleDict({"table": nn.Embedding(4, 2, sparse=True), "unused": nn.Linear(2, 2)})
    parameters = list(trainable(model).values())
    _, found = gradient(model, lambda model: 3 * model["table"](torch.tensor([1, 1])).sum(), parameters)
    assert found[0].tolist() == [[0, 0], [6, 6], [0, 0], [0, 0]]
    assert [part.abs().sum().item() for part in found[1:]] == [0, 0]


def test_moved_parameters_have_other_values_inside_and_their_own_storage_after():
    layer = nn.Linear(2, 1)
    weight, place, version = layer.weight.tolist(), layer.weight.data_ptr(), layer.weight._version
    value = layer(torch.ones(1, 2)).square().sum()
    with moved_to({layer.weight: torch.zeros(1, 2)}):
        assert layer(torch.ones(1, 2)).item() == layer.bias.item()
        layer.weight.data += 1
    assert (layer.weight.tolist(), layer.weight.data_ptr(), layer.weight._version) == (weight, place, version)
    value.backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_step_is_rounded_to_the_type_and_the_distance_is_the_one_gone(dtype):
    start = torch.tensor([1.0, -2.0, 0.25])
    direction = torch.tensor([1.0, 3.0, -0.5])
    parameter = nn.Parameter(start.to(dtype))
    values, distance = shifted([parameter], [direction.to(dtype)], 1e-2)
    exact = start.double() - 1e-2 * direction.double()
    assert values[parameter].dtype == dtype
    assert torch.equal(values[parameter], exact.to(dtype))
    gone = np.linalg.norm(exact.to(dtype).double().numpy() - start.double().numpy())
    assert distance == pytest.approx(gone, rel=1e-14)
    if dtype == torch.bfloat16:
        assert distance != pytest.approx(1e-2 * direction.norm().item(), rel=1e-3)


def test_norms_of_large_gradients_do_not_overflow():
    assert norm([torch.full((4,), 1e30), torch.full((1,), 3e30)]) == pytest.approx(
        np.sqrt(13) * 1e30, rel=1e-6
    )


MODEL = nn.Linear(2, 2)
X = torch.ones(3, 2)
BAD = [
    (
        "no model",
        lambda model: model,
        cross_entropy,
        ArgumentTypeError,
        "model: expected an nn.Module, got function",
    ),
    ("no loss", MODEL, 0.5, ArgumentTypeError, "loss: expected a function of the model, got float"),
    (
        "a number",
        MODEL,
        lambda model: 0.5,
        ArgumentTypeError,
        "loss: expected it to return a tensor, got float",
    ),
    (
        "no mean",
        MODEL,
        lambda model: model(X),
        ArgumentError,
        r"one value, got shape \(3, 2\); take the mean",
    ),
    (
        "detached",
        MODEL,
        lambda model: model(X).sum().detach(),
        ArgumentError,
        "loss: expected a value with a gradient",
    ),
    ("lazy", nn.LazyLinear(2), lambda model: model(X).sum(), ArgumentError, "weight belongs to a lazy layer"),
    (
        "frozen",
        nn.Linear(2, 2).requires_grad_(False),
        lambda model: model(X).sum(),
        ArgumentError,
        "unfreeze one",
    ),
]


@pytest.mark.parametrize(("model", "loss", "error", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
@pytest.mark.parametrize(
    "probe",
    [
        probes.gradient_norms,
        probes.top_hessian_eigenvalue,
        lambda model, loss: probes.loss_along_gradient(model, loss, [1.0]),
        lambda model, loss: probes.gradient_predictiveness(model, loss, [1.0]),
        lambda model, loss: probes.covariate_shift(model, loss, lr=1.0),
    ],
)
def test_what_cannot_be_measured_is_a_typed_error(probe, model, loss, error, message):
    with pytest.raises(error, match=message):
        probe(model, loss)
