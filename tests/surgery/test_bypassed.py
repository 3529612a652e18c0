import pytest
import torch
from torch import nn
from torch.nn import functional as F

from batchnorm.errors import ConversionError
from batchnorm.surgery import insert, insert_
from batchnorm.surgery.layers import batch_norm_paths

IMAGE = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, decides=False):
        super().__init__()
        self.c, self.d, self.r = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1), nn.ReLU(inplace=True)
        self.decides = decides

    def forward(self, x):
        if self.decides and x.sum() > 1e9:
            x = -x
        return self.d(self.act(self.c(x)))


class Part(Net):
    def act(self, y):
        y[:, :2].relu_()
        return y


class Flat(Net):
    def act(self, y):
        self.r(y.flatten(1))
        return y


class Late(Net):
    def act(self, y):
        z = y.view_as(y)
        F.relu_(y)
        return z


class Halves(Net):
    def act(self, y):
        a, b = y.chunk(2, 1)
        return torch.cat([F.relu(a, inplace=True), b], 1)


class Measured(Net):
    def act(self, y):
        z = self.r(y.flatten(1))
        return z.view(y.shape)


@pytest.mark.parametrize("kind", [Part, Flat, Late])
@pytest.mark.parametrize("placement", ["before", "after"])
@pytest.mark.parametrize("example", [None, IMAGE])
def test_an_activation_whose_effect_a_view_carries_is_refused(kind, placement, example):
    for put in (insert, insert_):
        net = kind()
        before = (type(net), list(net.state_dict()), list(net.modules()))
        with pytest.raises(ConversionError, match="works in place on a view"):
            put(net, placement, example=example)
        assert (type(net), list(net.state_dict()), list(net.modules())) == before


@pytest.mark.parametrize("kind", [Halves, Measured])
def test_views_that_lose_nothing_are_no_matter(kind):
    assert len(batch_norm_paths(insert(kind(), example=IMAGE))) == 1


def test_where_no_graph_shows_it_the_example_does():
    net = Flat(decides=True)
    modules, attributes = list(net.modules()), dict(vars(net))
    with pytest.raises(ConversionError, match="without its new norms computes something else"):
        insert_(net, example=IMAGE)
    assert list(net.modules()) == modules
    assert vars(net) == attributes
    torch.testing.assert_close(net(IMAGE), net.d(F.relu(net.c(IMAGE))))


def test_a_model_that_never_repeats_itself_is_not_compared():
    calls = []

    class Counting(Net):
        def forward(self, x):
            calls.append(1)
            return self.d(self.r(self.c(x))) + (len(calls) if x.sum() < 1e9 else 0)

    assert batch_norm_paths(insert(Counting(), example=IMAGE)) == ("r.norm",)
