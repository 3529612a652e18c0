from collections import namedtuple

import pytest
import torch
from torch import nn

from batchnorm.errors import ConversionError
from batchnorm.surgery.replace import copied, exchange

Pair = namedtuple("Pair", ["first", "second"])


def test_exchange_finds_a_module_wherever_it_is_held():
    old, new, other = nn.ReLU(), nn.Tanh(), nn.Sigmoid()
    model = nn.ModuleDict({"a": old, "b": nn.Sequential(old, other)})
    model.held = [old, other, 3]
    model.pair = Pair(other, old)
    model.table = {"x": old}
    vars(model)["alias"] = old
    names = model.held
    assert exchange(model, {old: new}) is model
    assert model["a"] is model["b"][0] is model.alias is model.table["x"] is model.pair.second is new
    assert model.held == [new, other, 3]
    assert model.held is names
    assert isinstance(model.pair, Pair)
    assert old not in set(model.modules())


def test_exchange_at_the_root():
    old, new = nn.ReLU(), nn.Tanh()
    assert exchange(old, {old: new}) is new


def test_copies_of_lazy_layers():
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(dtype=torch.float64))
    copy = copied(model, "verb")
    copy[1](torch.randn(3, 5).double())
    assert copy[1].running_mean.shape == (5,)
    assert copy[1].running_mean.dtype == torch.float64
    assert isinstance(model[1].running_mean, nn.UninitializedBuffer)


def test_what_cannot_be_copied_is_named():
    model = nn.Linear(2, 2)
    model.held = (torch.ones(1, requires_grad=True) * 2,)
    with pytest.raises(
        ConversionError, match=r"verb: the model cannot be copied \(RuntimeError: .*; verb_ changes"
    ):
        copied(model, "verb")
