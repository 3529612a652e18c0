import pytest
import torch
from torch import nn
from torch.nn import functional as F

import batchnorm.nn as ours
from batchnorm.errors import ConversionError
from batchnorm.surgery import convert, insert
from batchnorm.surgery.layers import batch_norm_paths

ROWS = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def norms_of(model):
    return [model.get_submodule(path) for path in batch_norm_paths(model)]


def test_sequential_of_modules_stays_readable():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(288, 4))
    new = insert(net, "before")
    assert [type(m) for m in new[1]] == [ours.BatchNorm2d, nn.ReLU]
    assert [type(m) for m in insert(net, "after")[1]] == [nn.ReLU, ours.BatchNorm2d]
    assert batch_norm_paths(new) == ("1.norm",)
    assert list(new[:2]) == list(new)[:2]


@pytest.mark.parametrize(
    "act",
    [
        nn.ReLU6(), nn.LeakyReLU(), nn.PReLU(), nn.ELU(), nn.SELU(), nn.GELU(), nn.SiLU(), nn.Mish(), nn.Hardswish(),
        nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.Hardtanh(), nn.RReLU(), nn.Softsign(),
    ],
    ids=lambda act: type(act).__name__,
)  # fmt: skip
def test_activation_modules(act):
    net = nn.Sequential(nn.Linear(6, 8), act, nn.Linear(8, 2))
    new = insert(net, "after")
    assert len(batch_norm_paths(new)) == 1
    assert set(net.state_dict()) <= set(new.state_dict())
    x = new[0](ROWS)
    torch.testing.assert_close(convert(new, "none").eval()(ROWS), net[2](act.eval()(x)))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.relu(),
        lambda x: torch.relu_(x),
        lambda x: F.relu(x, inplace=True),
        lambda x: F.relu(x, True),
        lambda x: F.leaky_relu(x, 0.2),
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: F.hardswish(x),
        lambda x: x.clamp(min=0),
        lambda x: torch.clamp(x, 0),
        lambda x: torch.tanh(x),
        lambda x: x.sigmoid(),
        lambda x: F.elu_(x),
        lambda x: x * torch.tanh(F.softplus(x)),
        lambda x: torch.mul(torch.sigmoid(x), x),
    ],
)
@pytest.mark.parametrize("placement", ["before", "after"])
def test_activation_functions(call, placement):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.b(call(self.a(x)))

    net = Net().eval()
    for example in (None, ROWS):
        new = insert(net, placement, example=example)
        (norm,) = norms_of(new)
        norm.running_mean.fill_(0.5)
        h = net.a(ROWS)
        expected = net.b(call(norm(h)) if placement == "before" else norm(call(h)))
        torch.testing.assert_close(new(ROWS), expected)


def test_not_activations():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x):
            h = torch.softmax(self.a(x), 1).clamp(min=0.1)
            return torch.sigmoid(self.b(torch.relu(h))).squeeze()

    assert len(batch_norm_paths(insert(Net(), example=ROWS))) == 1


@pytest.mark.parametrize(
    "ending", [nn.Sigmoid(), nn.ReLU(), nn.Sequential(nn.Tanh(), nn.Dropout(0.1), nn.Flatten())]
)
def test_what_becomes_the_output_is_not_hidden(ending):
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2), ending)
    for placement in ("before", "after"):
        assert batch_norm_paths(insert(net, placement)) in (("1.norm",),)
    with pytest.raises(ConversionError, match="no hidden activation"):
        insert(nn.Sequential(nn.Linear(6, 8), ending))


def test_a_relu_that_overwrites_what_others_read():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.act = nn.Linear(6, 8), nn.Linear(8, 2), nn.ReLU(inplace=True)

        def forward(self, x):
            h = self.a(x)
            self.act(h)
            return self.b(h)

    net = Net().eval()
    for placement in ("before", "after"):
        new = insert(net, placement)
        (norm,) = norms_of(new)
        norm.running_mean.fill_(0.5)
        h = net.a(ROWS)
        expected = net.b(F.relu(norm(h)) if placement == "before" else norm(F.relu(h)))
        torch.testing.assert_close(new(ROWS), expected)
