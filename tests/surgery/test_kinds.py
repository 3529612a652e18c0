import pytest
import torch
from torch import nn

from batchnorm.errors import ConversionError
from batchnorm.surgery.kinds import ChannelsLastGroupNorm, replacement


def test_channels_last_group_norm_is_group_norm_moved():
    x = torch.randn(4, 5, 7, 6)
    layer = ChannelsLastGroupNorm(3, 6)
    layer.weight.data.uniform_()
    expected = nn.functional.group_norm(x.movedim(-1, 1), 3, layer.weight, layer.bias).movedim(1, -1)
    torch.testing.assert_close(layer(x), expected)
    rows = torch.randn(4, 6)
    torch.testing.assert_close(layer(rows), nn.functional.group_norm(rows, 3, layer.weight, layer.bias))


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("layer", {"channels_last": True, "ndim": 3}, nn.LayerNorm),
        ("layer", {"ndim": 3}, nn.GroupNorm),
        ("instance", {"ndim": 5}, nn.InstanceNorm3d),
        ("instance", {"channels_last": True, "ndim": 3}, ChannelsLastGroupNorm),
        ("group", {"channels_last": True}, ChannelsLastGroupNorm),
        ("local", {}, nn.LocalResponseNorm),
        ("none", {}, nn.Identity),
    ],
)
def test_classes(kind, given, expected):
    assert type(replacement(kind, 6, **given)) is expected
    assert not list(replacement(kind, 6, affine=False, **given).parameters())


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("group", {"ndim": 2}, "on (N, 8) would be 8 groups of one value"),
        ("group", {"num_groups": 0}, "expected a divisor of the 8 channels, got 0"),
        ("group", {"num_groups": "2"}, "got '2'"),
        ("instance", {}, "pass example=a batch"),
        ("instance", {"ndim": 2, "channels_last": True}, "no meaning on (N, 8)"),
        ("instance", {"ndim": 6}, "got 6 dimensions"),
        ("local", {"ndim": 3}, "got (N, C, L)"),
        ("local", {"channels_last": True}, "got (N, *, C)"),
        ("layer", {"size": 3}, "'layer' has no option 'size'; its options: none"),
    ],
)
def test_refusals(kind, given, message):
    with pytest.raises(ConversionError) as caught:
        replacement(kind, 8, **given)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "option", "value", "message"),
    [
        ("local", "size", 0, "size: expected an integer of at least 1, got 0"),
        ("local", "size", True, "size: expected an integer"),
        ("local", "size", 2.5, "size: expected an integer"),
        ("local", "alpha", "x", "alpha: expected a finite number, got 'x'"),
        ("local", "k", float("nan"), "k: expected a finite number"),
        ("group", "num_groups", True, "num_groups: expected a divisor"),
        ("group", "num_groups", 0, "num_groups: expected a divisor"),
    ],
)
def test_options_that_do_not_fit(kind, option, value, message):
    with pytest.raises(ConversionError, match=message):
        replacement(kind, 8, ndim=4, **{option: value})
