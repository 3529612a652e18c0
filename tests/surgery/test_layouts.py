import pytest
import torch
from torch import nn
from torch.nn import functional as F

import batchnorm.nn as ours
from batchnorm.errors import ConversionError
from batchnorm.surgery.layouts import Layouts, Spot, make_norm, spot_of

SEQUENCE = torch.randn(2, 5, 6)


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        (lambda x: F.relu(nn.Linear(6, 4)(x)), "last"),
        (lambda x: F.max_pool1d(nn.Conv1d(5, 4, 2)(x), 2), "first"),
        (lambda x: nn.LayerNorm(6)(x) + 1, "last"),
        (lambda x: nn.LSTM(6, 3)(x)[0].tanh(), "last"),
        (lambda x: nn.MultiheadAttention(6, 2)(x, x, x)[0], "last"),
        (lambda x: nn.Embedding(9, 4)(torch.zeros(2, 3, dtype=torch.long)), "last"),
        (lambda x: x + nn.Linear(6, 6)(x), "last"),
        (lambda x: nn.Conv1d(6, 4, 1)(nn.Linear(6, 6)(x).transpose(1, 2)), "first"),
        (lambda x: nn.Linear(6, 6)(x).transpose(1, 2), None),
        (lambda x: nn.Linear(6, 6)(x).mT * 2, None),
        (lambda x: x * 2, None),
        (lambda x: torch.bmm(nn.Linear(6, 6)(x), x.mT), None),
    ],
)
def test_history_tells_where_channels_are(compute, expected):
    with torch.no_grad(), Layouts() as layouts:
        value = compute(SEQUENCE)
    assert layouts.layout(value) == expected


@pytest.mark.parametrize(
    ("shape", "layout", "expected", "kind"),
    [
        ((4, 6), None, Spot(6, 2), ours.BatchNorm1d),
        ((4, 6), "last", Spot(6, 2), ours.BatchNorm1d),
        ((4, 6, 9), "first", Spot(6, 3), ours.BatchNorm1d),
        ((4, 6, 9), "last", Spot(9, 3, last=True), ours.ChannelsLastBatchNorm),
        ((4, 6, 9, 9), None, Spot(6, 4), ours.BatchNorm2d),
        ((4, 9, 9, 6), "last", Spot(6, 4, last=True), ours.ChannelsLastBatchNorm),
        ((4, 6, 9, 9, 9), None, Spot(6, 5), ours.BatchNorm3d),
        ((4, 2, 2, 2, 2, 6), "last", Spot(6, 6, last=True), ours.ChannelsLastBatchNorm),
    ],
)
def test_spots_and_their_norms(shape, layout, expected, kind):
    spot = spot_of(shape, layout, "here")
    assert spot == expected
    norm = make_norm(spot, nn.Linear(2, 2).double().eval())
    assert type(norm) is kind
    assert norm.weight.dtype == torch.float64
    assert not norm.training
    assert norm.double()(torch.randn(*shape, dtype=torch.float64)).shape == shape


@pytest.mark.parametrize(
    ("shape", "layout"), [((4,), None), ((4, 6, 9), None), ((4, 2, 2, 2, 2, 2), "first")]
)
def test_no_spot(shape, layout):
    with pytest.raises(ConversionError, match="insert: at here"):
        spot_of(shape, layout, "here")
