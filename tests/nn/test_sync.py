"""SyncBatchNorm where there is nobody to join with; with others it is in tests/distributed."""

import copy
import inspect
import io

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import batchnorm as bn
from batchnorm.errors import BatchTooSmallError, DimensionError


def randn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_arguments_come_in_torchs_order() -> None:
    mine, theirs = (inspect.signature(kind).parameters for kind in (bn.SyncBatchNorm, nn.SyncBatchNorm))
    assert list(mine) == list(theirs)
    assert {n: p.default for n, p in mine.items()} == {n: p.default for n, p in theirs.items()}
    assert {n: p.kind for n, p in mine.items()} == {n: p.kind for n, p in theirs.items()}
    layer = bn.SyncBatchNorm(3, 0.1, 0.2, False, False, "group", "meta", torch.float64)
    assert (layer.eps, layer.momentum, layer.affine, layer.process_group) == (0.1, 0.2, False, "group")


def test_what_it_is_an_instance_of() -> None:
    layer = bn.SyncBatchNorm(3)
    assert isinstance(layer, nn.modules.batchnorm._BatchNorm)  # what filters of weight decay look for
    assert not isinstance(layer, nn.SyncBatchNorm)  # which DDP refuses on the CPU
    layer.load_state_dict(nn.SyncBatchNorm(3).state_dict())


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4), (5, 3, 4, 2), (5, 3, 4, 2, 2), (5, 3, 2, 2, 2, 2)])
@pytest.mark.parametrize("training", [True, False])
def test_without_a_group_it_is_batch_norm(shape, training) -> None:
    x = randn(*shape)
    theirs = nn.BatchNorm1d(3).train(training)
    layer = bn.SyncBatchNorm(3).train(training)
    torch.testing.assert_close(layer(x), theirs(x.flatten(2) if x.dim() > 2 else x).view(shape))
    torch.testing.assert_close(layer.running_var, theirs.running_var)


def test_the_whole_call_of_our_layers() -> None:
    x, lengths = randn(4, 3, 5), [5, 2, 0, 1]
    ours, layer = bn.BatchNorm1d(3), bn.SyncBatchNorm(3)
    assert torch.equal(layer(x, x, act="silu", lengths=lengths), ours(x, x, act="silu", lengths=lengths))
    packed = pack_sequence([randn(4, 3), randn(2, 3)])
    assert torch.equal(layer(packed).data, ours(packed).data)
    assert layer.bfloat16().running_mean.dtype == torch.float32


def test_errors_without_a_group() -> None:
    with pytest.raises(DimensionError, match=r"expected at least 2D input \(got 1D input\)"):
        bn.SyncBatchNorm(3)(torch.zeros(3))
    with pytest.raises(BatchTooSmallError, match="Expected more than 1 value"):
        bn.SyncBatchNorm(3)(torch.zeros(1, 3))


def test_copies_and_saved_layers() -> None:
    layer = bn.SyncBatchNorm(3)
    layer.register_forward_hook(print)
    layer.weight.data.fill_(2)
    other = copy.deepcopy(nn.Sequential(layer, layer))
    assert other[0] is other[1]
    assert other[0] is not layer
    assert other[0].weight is not layer.weight
    assert torch.equal(other[0].weight, layer.weight)
    assert list(other[0]._forward_hooks.values()) == [print]
    file = io.BytesIO()
    torch.save(bn.SyncBatchNorm(3), file)
    file.seek(0)
    assert torch.load(file, weights_only=False).process_group is None


def test_torch_compile_sees_plain_batch_norm() -> None:
    layer, x = bn.SyncBatchNorm(3), randn(4, 3, 5)
    fast = torch.compile(copy.deepcopy(layer), backend="eager", fullgraph=True)
    torch.testing.assert_close(fast(x), layer(x))
