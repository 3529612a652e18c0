import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.errors import BatchTooSmallError, DimensionError, ShapeError


@pytest.mark.parametrize("shape", [(6, 4), (6, 7, 4), (3, 5, 6, 4), (2, 3, 2, 3, 4)])
@pytest.mark.parametrize("training", [True, False])
def test_equals_the_layer_of_the_transposed_tensor(shape, training) -> None:
    last, first = (
        bn.ChannelsLastBatchNorm(4),
        [bn.BatchNorm1d, bn.BatchNorm1d, bn.BatchNorm2d, bn.BatchNorm3d][len(shape) - 2](4),
    )
    first.load_state_dict(last.state_dict(), strict=True)
    last.train(training), first.train(training)
    x = torch.randn(shape)
    a, b = x.clone().requires_grad_(), x.movedim(-1, 1).clone().requires_grad_()
    y, z = last(a, act="relu"), first(b, act="relu").movedim(1, -1)
    torch.testing.assert_close(y, z)
    grad = torch.randn(shape)
    y.backward(grad), z.backward(grad)
    torch.testing.assert_close(a.grad, b.grad.movedim(1, -1))
    for name, value in first.state_dict().items():
        torch.testing.assert_close(last.state_dict()[name], value)


def test_lengths_are_those_of_n_l_c() -> None:
    x, lengths = torch.randn(3, 6, 4), torch.tensor([6, 2, 4])
    last, first = bn.ChannelsLastBatchNorm(4), bn.BatchNorm1d(4)
    torch.testing.assert_close(last(x, lengths=lengths), first(x.mT, lengths=lengths).mT)


def test_it_stands_outside_torchs_batch_norms() -> None:
    assert not isinstance(bn.ChannelsLastBatchNorm(4), nn.modules.batchnorm._BatchNorm)


def test_errors() -> None:
    layer = bn.ChannelsLastBatchNorm(4)
    with pytest.raises(DimensionError, match="at least 2D"):
        layer(torch.randn(4))
    with pytest.raises(ShapeError, match="should contain 5 elements not 4"):
        layer(torch.randn(4, 5))
    with pytest.raises(BatchTooSmallError, match="Expected more than 1 value per channel"):
        layer(torch.randn(1, 4))


def test_repr_names_its_arguments() -> None:
    assert repr(bn.ChannelsLastBatchNorm(4, momentum=None)).startswith(
        "ChannelsLastBatchNorm(4, eps=1e-05, momentum=None, affine=True"
    )
