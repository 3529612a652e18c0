import math

import numpy as np
import pytest
import torch
from torch import nn

from batchnorm import probes
from batchnorm.errors import ArgumentError, ArgumentTypeError, ShapeError
from tests.probes import oracle
from tests.probes.nets import cross_entropy, everything


def deep_linear(depth=4, width=3):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(depth))).double()


X = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def half_square(model):
    return (model(X) - X).square().sum() / 2


def layer_gradient(weights, layer):
    """Of half_square, by the product rule on matrices."""
    x = X.numpy()
    below = x @ np.linalg.multi_dot([np.eye(3), *(w.T for w in weights[:layer]), np.eye(3)])
    above = np.linalg.multi_dot([np.eye(3), *(w.T for w in weights[layer + 1 :]), np.eye(3)])
    error = below @ weights[layer].T @ above - x
    return (below.T @ error @ above.T).T


def test_a_deep_linear_network_by_hand():
    model, lr = deep_linear(), 0.05
    weights = [layer.weight.detach().numpy() for layer in model]
    moved = [w - lr * layer_gradient(weights, index) for index, w in enumerate(weights)]
    found = probes.covariate_shift(model, half_square, lr=lr)
    assert [shift.layer for shift in found] == ["0", "1", "2", "3"]
    for index, shift in enumerate(found):
        before = layer_gradient(weights, index)
        after = layer_gradient([*moved[:index], *weights[index:]], index)
        assert shift.gradient_norm == pytest.approx(np.linalg.norm(before), rel=1e-12)
        assert shift.moved_gradient_norm == pytest.approx(np.linalg.norm(after), rel=1e-12)
        assert shift.shift == pytest.approx(np.linalg.norm(before - after), rel=1e-11, abs=1e-15)
        cosine = (before * after).sum() / np.linalg.norm(before) / np.linalg.norm(after)
        assert shift.cosine == pytest.approx(cosine, rel=1e-12)
    assert (found[0].shift, found[0].cosine) == (0, pytest.approx(1))


def test_with_batch_norm_and_dropout_each_layer_is_a_copy_whose_lower_layers_took_a_step():
    model = everything()
    layers = ["first", ("second", "theirs"), "last"]
    names = [
        ["first.weight", "first.bias"],
        ["second.weight", "theirs.weight", "theirs.bias"],
        ["last.weight", "last.bias"],
    ]
    found = probes.covariate_shift(model, cross_entropy, layers, lr=0.3)
    assert [shift.layer for shift in found] == layers
    first = oracle.gradients(model, cross_entropy)
    for index, shift in enumerate(found):
        below = [name for group in names[:index] for name in group]
        second = oracle.gradients(oracle.after_a_step(model, cross_entropy, 0.3, below), cross_entropy)
        own = [{name: gradients[name] for name in names[index]} for gradients in (first, second)]
        assert shift.shift == pytest.approx(oracle.distance(*own), rel=1e-9, abs=1e-15)
        assert shift.moved_gradient_norm == pytest.approx(math.sqrt(oracle.product(own[1], own[1])), rel=1e-9)


def test_the_update_of_any_optimizer():
    model = deep_linear(3)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    half_square(model).backward()
    optimizer.step()
    moved = {name: value.clone() for name, value in model.state_dict().items()} | {"else": torch.ones(1)}
    model.load_state_dict(start)
    found = probes.covariate_shift(model, half_square, moved=moved)
    weights, later = ([values[f"{i}.weight"].numpy() for i in range(3)] for values in (start, moved))
    for index, shift in enumerate(found):
        after = layer_gradient([*later[:index], *weights[index:]], index)
        assert shift.shift == pytest.approx(
            np.linalg.norm(layer_gradient(weights, index) - after), rel=1e-11, abs=1e-15
        )
    assert torch.equal(moved["0.weight"], torch.from_numpy(later[0]))


def test_by_default_each_module_with_trainable_parameters_is_a_layer():
    found = probes.covariate_shift(everything(), cross_entropy, lr=0.1)
    assert [shift.layer for shift in found] == ["first", "ours", "second", "theirs", "last", "unused"]
    assert found[-1].shift == 0
    assert math.isnan(found[-1].cosine)


@pytest.mark.parametrize(
    ("layers", "options", "error", "message"),
    [
        (None, {}, ArgumentError, "lr, moved: expected one of them, got none"),
        (None, {"lr": 0.1, "moved": {}}, ArgumentError, "lr, moved: expected one of them, got both"),
        ("0", {"lr": 0.1}, ArgumentTypeError, "layers: expected a list of paths"),
        ([], {"lr": 0.1}, ArgumentError, "layers: expected one layer or more, got none"),
        (["9"], {"lr": 0.1}, ArgumentError, "layers: expected paths that model.named_modules.. has, got '9'"),
        (
            ["0", "1"],
            {"lr": 0.1},
            ArgumentError,
            "layers: expected trainable parameters in each, got none in '1'",
        ),
        (["0", ("0", "2")], {"lr": 0.1}, ArgumentError, "0.weight belongs to '0' and to "),
        (
            ["0"],
            {"moved": {"2.weight": torch.ones(2, 2)}},
            ArgumentError,
            "moved: expected a value .* got none for 0.w",
        ),
        (
            ["0"],
            {"moved": {"0.weight": torch.ones(3)}},
            ShapeError,
            r"moved: expected shape \(2, 2\) for 0.weight",
        ),
    ],
)
def test_bad_arguments_are_typed_errors(layers, options, error, message):
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2))
    with pytest.raises(error, match=message):
        probes.covariate_shift(model, lambda model: model(torch.ones(1, 2)).sum(), layers, **options)
