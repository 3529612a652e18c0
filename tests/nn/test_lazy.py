import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import batchnorm as bn
from batchnorm.errors import DimensionError

CASES = [
    (bn.LazyBatchNorm1d, nn.LazyBatchNorm1d, bn.BatchNorm1d, (4, 5)),
    (bn.LazyBatchNorm2d, nn.LazyBatchNorm2d, bn.BatchNorm2d, (4, 5, 3, 3)),
    (bn.LazyBatchNorm3d, nn.LazyBatchNorm3d, bn.BatchNorm3d, (4, 5, 2, 3, 3)),
]


@pytest.mark.parametrize(("ours", "theirs", "becomes", "shape"), CASES)
def test_becomes_the_layer_and_computes_as_torchs_lazy_one(ours, theirs, becomes, shape) -> None:
    a, b = ours(1e-3, None), theirs(1e-3, None)
    assert isinstance(a, theirs)
    assert repr(a) == repr(b)
    x = torch.randn(shape)
    torch.testing.assert_close(a(x), b(x), rtol=1e-5, atol=1e-5)
    assert type(a) is becomes
    assert a.num_features == 5
    assert repr(a) == repr(b)
    for name, value in b.state_dict().items():
        torch.testing.assert_close(a.state_dict()[name], value)


def test_the_first_call_may_carry_every_argument() -> None:
    packed = pack_padded_sequence(torch.randn(7, 3, 5), torch.tensor([7, 5, 2]))
    layer = bn.LazyBatchNorm1d()
    assert layer(packed, act="relu").data.shape == (14, 5)
    x = torch.randn(2, 5, 6)
    layer = bn.LazyBatchNorm1d()
    assert layer(x, x, act="relu", lengths=torch.tensor([6, 3])).shape == x.shape


def test_statistics_are_wide_after_initialization() -> None:
    layer = bn.LazyBatchNorm2d(dtype=torch.bfloat16)
    layer(torch.randn(4, 5, 3, 3).bfloat16())
    assert layer.weight.dtype == torch.bfloat16
    assert layer.running_mean.dtype == torch.float32


def test_loads_a_state_dict_before_its_first_input() -> None:
    full = bn.BatchNorm2d(5)
    full(torch.randn(4, 5, 3, 3))
    lazy = pickle.loads(pickle.dumps(bn.LazyBatchNorm2d()))
    lazy.load_state_dict(full.state_dict())
    x = torch.randn(4, 5, 3, 3)
    assert torch.equal(lazy.eval()(x), full.eval()(x))


def test_a_wrong_first_input_leaves_it_uninitialized() -> None:
    layer = bn.LazyBatchNorm2d()
    with pytest.raises(DimensionError, match="expected 4D input"):
        layer(torch.randn(4, 5))
    assert layer.has_uninitialized_params()
    assert layer(torch.randn(4, 6, 3, 3)).shape[1] == 6


def test_options_reach_the_layer() -> None:
    layer = bn.LazyBatchNorm1d(bias=False, track_running_stats=False)
    layer(torch.randn(4, 5))
    assert layer.bias is None
    assert layer.running_mean is None
    assert layer.weight.shape == (5,)
