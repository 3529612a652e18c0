import pytest
from torch import nn

import batchnorm.nn as ours
from batchnorm.surgery.layers import batch_norm_paths, is_batch_norm


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.BatchNorm1d(3), True),
        (nn.SyncBatchNorm(3), True),
        (nn.LazyBatchNorm2d(), True),
        (ours.BatchNorm3d(3), True),
        (ours.LazyBatchNorm1d(), True),
        (ours.ChannelsLastBatchNorm(3), True),
        (nn.InstanceNorm2d(3), False),
        (nn.LazyInstanceNorm2d(), False),
        (nn.GroupNorm(1, 3), False),
        (nn.LayerNorm(3), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_counts_as_batch_norm(layer, expected):
    assert is_batch_norm(layer) is expected


def test_a_shared_layer_is_listed_once():
    shared = nn.BatchNorm1d(3)
    assert batch_norm_paths(nn.Sequential(shared, nn.Sequential(nn.BatchNorm1d(3)), shared)) == ("0", "1.0")
    assert batch_norm_paths(shared) == ("",)
