import random

import pytest
import torch
from torch import nn

from batchnorm.errors import ConversionError
from batchnorm.surgery import insert
from batchnorm.surgery.restored import generators_kept, materialise, restored, run


class Restless(nn.Module):
    """Changes whatever a forward pass can change."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("replaced", torch.zeros(2))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.new = x
        self.count += 1
        self.replaced = x
        self.linear.weight.data.mul_(2)
        self.linear.weight.grad = torch.ones(2, 3)
        self.linear.bias = None
        self.norm.eval()
        self.register_forward_hook(lambda *_: None)
        random.random()
        return self.norm(nn.functional.linear(x, self.linear.weight)) + torch.randn(2)


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(fails):
    model = Restless()
    model.linear.weight.grad = grad = torch.zeros(2, 3)
    attributes = [(dict(vars(m)), dict(m._parameters), dict(m._buffers)) for m in model.modules()]
    values = {key: value.clone() for key, value in model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate()
    try:
        run(
            model,
            torch.randn(4, 5 if fails else 3, generator=torch.Generator().manual_seed(0)),
            training=True,
        )
    except RuntimeError:
        assert fails
    assert [(dict(vars(m)), dict(m._parameters), dict(m._buffers)) for m in model.modules()] == attributes
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())
    assert model.linear.weight.grad is grad
    assert all(module.training for module in model.modules())
    assert not model._forward_hooks
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def test_untouched_tensors_keep_their_version():
    model = nn.Linear(3, 2)
    version = model.weight._version
    with restored(model):
        model(torch.randn(4, 3))
    assert model.weight._version == version


def test_examples_by_position_and_by_name():
    class Two(nn.Module):
        def forward(self, a, b=2):
            return a * b

    assert run(Two(), (3, 4)) == run(Two(), {"b": 4, "a": 3}) == 12
    assert run(Two(), 3) == 6


def test_a_model_that_works_in_place_on_its_input():
    x = torch.randn(4, 3, requires_grad=True)
    value = x.detach().clone()
    assert torch.equal(run(nn.ReLU(inplace=True), x), value.relu())
    materialise(nn.Sequential(nn.ReLU(inplace=True), nn.LazyLinear(2)), x)
    insert(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2)), example=x)
    assert torch.equal(x, value)


def test_generators_of_numpy_too():
    numpy = pytest.importorskip("numpy", reason="numpy is optional to the library")
    state = numpy.random.get_state()[1].copy()
    with generators_kept():
        numpy.random.rand()
    assert (numpy.random.get_state()[1] == state).all()


def test_materialise_keeps_modes_and_statistics():
    model = nn.Sequential(nn.LazyLinear(4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    materialise(model, torch.randn(1, 3))
    assert model[0].in_features == 3
    assert model[1].num_batches_tracked == 0
    assert all(module.training for module in model.modules())
    with pytest.raises(ConversionError, match="example: the model raised RuntimeError: "):
        materialise(nn.Sequential(nn.LazyLinear(4), nn.Linear(3, 2)), torch.randn(1, 3))
