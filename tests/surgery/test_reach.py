import dataclasses
import functools
from collections import deque
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from batchnorm.errors import ConversionError, ConversionWarning
from batchnorm.surgery import convert, convert_
from batchnorm.surgery.layers import is_batch_norm
from batchnorm.surgery.reach import reached, touched

ROWS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


@dataclasses.dataclass
class Step:
    norm: nn.Module


class Holder:
    def __init__(self, norm):
        self.norm = norm

    def run(self, x):
        return self.norm(x)


HOLDERS = {
    "pairs": (lambda b: [(1, b)], lambda held: held[0][1]),
    "nested": (lambda b: {"a": [b]}, lambda held: held["a"][0]),
    "namespace": (lambda b: SimpleNamespace(norm=b), lambda held: held.norm),
    "dataclass": (Step, lambda held: held.norm),
    "object": (Holder, lambda held: held.norm),
    "method of an object": (lambda b: Holder(b).run, lambda held: held.__self__.norm),
    "bound method": (lambda b: b.forward, lambda held: held.__self__),
    "partial": (lambda b: functools.partial(b), lambda held: held.func),
    "deque": (lambda b: deque([b]), lambda held: held[0]),
    "set": (lambda b: {b}, lambda held: next(iter(held))),
    "frozenset": (lambda b: frozenset([b]), lambda held: next(iter(held))),
}


class Net(nn.Module):
    def __init__(self, hold=lambda norm: None, take=lambda held: held):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self._held = hold(self.norm)
        self._take = take

    def forward(self, x):
        return self._take(self._held)(self.linear(x))


def closed(net):
    norm = net.norm
    net._take = lambda _: norm
    return net


@pytest.mark.parametrize("name", HOLDERS)
@pytest.mark.parametrize("change", [convert, convert_])
def test_layers_are_exchanged_wherever_attributes_hold_them(name, change):
    new = change(Net(*HOLDERS[name]), "none", example=ROWS)
    assert type(new._take(new._held)) is nn.Identity
    torch.testing.assert_close(new.train()(ROWS), new.linear(ROWS))


def test_cycles_end():
    net = Net()
    net.loop = [net, net.norm]
    net.loop.append(net.loop)
    new = convert(net, "none")
    assert type(new.loop[1]) is nn.Identity
    assert new.loop[2] is new.loop


def test_a_module_that_is_not_registered_is_searched():
    net = Net()
    net.block = [nn.Sequential(net.norm)]
    assert type(convert(net, "none").block[0][0]) is nn.Identity


@pytest.mark.parametrize("change", [convert, convert_])
@pytest.mark.parametrize("to", ["batchnorm", "none", "layer"])
def test_what_a_closure_holds_is_refused(change, to):
    net = closed(Net())
    net._pairs = [(net.linear, net.norm)]
    old, state = net.norm, {key: value.clone() for key, value in net.state_dict().items()}
    hooks = {key: dict(value) for key, value in vars(old).items() if "hooks" in key}
    with pytest.raises(ConversionError, match=r"still uses the old layer at 'norm': .*e\.g\. a closure"):
        change(net, to, example=ROWS)
    assert net.norm is old is net._pairs[0][1]
    assert type(old) is nn.BatchNorm1d
    assert {key: vars(old)[key] for key in hooks} == hooks
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())


def test_any_use_of_an_old_layer_counts():
    net = Net()
    norm = net.norm
    for use in (norm.forward, lambda x: x * norm.weight):
        net._take = lambda _, use=use: use
        with pytest.raises(ConversionError, match="still uses the old layer"):
            convert_(net, "none", example=ROWS)
        assert net.norm is norm


def test_a_lazy_layer_that_the_example_does_not_reach_waits_as_before():
    net = closed(Net())
    net.spare = nn.LazyBatchNorm1d()
    with pytest.raises(ConversionError, match="still uses"):
        convert_(net, "none", example=ROWS)
    net.spare(ROWS)
    assert type(net.spare) is nn.BatchNorm1d
    assert not net.spare._forward_pre_hooks


def test_a_way_that_the_new_layers_close_is_named():
    class Choosy(Net):
        def forward(self, x):
            return self.norm(x) if is_batch_norm(self.norm) else x

    net = Choosy()
    net.norm = nn.BatchNorm1d(3)
    with pytest.warns(ConversionWarning, match="ran 'norm' before and does not run it now") as caught:
        convert(net, "none", example=ROWS)
    assert [warning.filename for warning in caught] == [__file__]


def test_reached_in_either_mode_and_without_a_trace():
    class Two(Net):
        def forward(self, x):
            return self.linear(x) if self.training else self.norm(x)

    net = Two()
    net.norm = nn.BatchNorm1d(3)
    assert reached(net, [net.linear, net.norm], ROWS) == {net.linear: {2}, net.norm: {2}}
    other = nn.Linear(3, 3)
    assert touched(net, [other], [net.linear], ROWS) == (set(), {net.linear})
    assert not any(m._forward_pre_hooks for m in (net.linear, net.norm, other))
    assert net.norm.num_batches_tracked == 0
