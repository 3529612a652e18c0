import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.errors import UsageError
from batchnorm.lab.arms import KNOWN, norm_layer
from batchnorm.report.phrases import meanings


def test_order_is_that_of_the_style():
    later = ["ghost", "renorm", "frozen", "domain", "sync", "recurrent"]
    assert list(KNOWN) == ["none", "batch", "layer", "group", "instance", "local", *later]


@pytest.mark.parametrize(
    ("arm", "ndim", "kind"),
    [
        ("none", 2, nn.Identity),
        ("none", 4, nn.Identity),
        ("batch", 2, nn.BatchNorm1d),
        ("batch", 3, nn.BatchNorm1d),
        ("batch", 4, nn.BatchNorm2d),
        ("layer", 2, nn.LayerNorm),
        ("layer", 4, nn.GroupNorm),
        ("group", 2, nn.GroupNorm),
        ("group", 4, nn.GroupNorm),
        ("instance", 4, nn.InstanceNorm2d),
        ("local", 4, nn.LocalResponseNorm),
        ("ghost", 2, bn.GhostBatchNorm1d),
        ("ghost", 4, bn.GhostBatchNorm2d),
        ("renorm", 4, bn.BatchRenorm2d),
        ("frozen", 4, bn.FrozenBatchNorm2d),
        ("domain", 2, bn.DomainBatchNorm1d),
        ("domain", 4, bn.DomainBatchNorm2d),
        ("sync", 2, bn.SyncBatchNorm),
        ("sync", 4, bn.SyncBatchNorm),
    ],
)
def test_layers(arm, ndim, kind):
    layer = norm_layer(arm, 12, ndim)
    assert isinstance(layer, kind)
    x = torch.randn(8, 12, *[5] * (ndim - 2))
    assert layer(x).shape == x.shape


def test_the_recurrent_arm_needs_time_steps():
    layer = norm_layer("recurrent", 12, 2, steps=5)
    assert isinstance(layer, bn.RecurrentBatchNorm1d)
    assert layer.max_steps == 5
    with pytest.raises(UsageError, match="no meaning where there are no time steps"):
        norm_layer("recurrent", 12, 4)


@pytest.mark.parametrize(("channels", "groups"), [(6, 2), (16, 16), (48, 16), (100, 4), (64, 32), (7, 1)])
def test_groups(channels, groups):
    assert norm_layer("group", channels, 4).num_groups == groups


def test_layer_averages_over_channels_and_pixels():
    x = torch.randn(3, 12, 5, 5) * 4 + 2
    expected = (x - x.mean((1, 2, 3), keepdim=True)) / (
        x.var((1, 2, 3), correction=0, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(norm_layer("layer", 12, 4)(x), expected)


def test_instance_has_weight_and_bias_and_no_statistics():
    layer = norm_layer("instance", 12, 4)
    assert sorted(layer.state_dict()) == ["bias", "weight"]


@pytest.mark.parametrize(
    "arm", ["batch", "layer", "group", "instance", "local", "ghost", "renorm", "domain", "sync"]
)
def test_no_draws_and_plain_at_the_start(arm):
    state = torch.get_rng_state()
    layer = norm_layer(arm, 12, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, torch.full_like(p, n == "weight")) for n, p in layer.named_parameters())


@pytest.mark.parametrize(
    ("arm", "channels", "ndim", "message"),
    [
        (
            "bacth",
            8,
            4,
            "unknown arm 'bacth'; known: none, batch, layer, group, instance, local, ghost, renorm, frozen, domain, "
            "sync, recurrent",
        ),
        ("instance", 8, 2, "'instance' has no meaning on (N, 8)"),
        ("local", 8, 2, "'local' (LocalResponseNorm) is for images (N, C, H, W); got (N, C)"),
        ("group", 32, 2, "would be 32 groups of one value"),
    ],
)
def test_refusals(arm, channels, ndim, message):
    with pytest.raises(UsageError) as caught:
        norm_layer(arm, channels, ndim)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_arms_are_other_than_batch_norm_where_the_page_says_so() -> None:
    said = str(meanings(KNOWN))
    ghost, renorm = norm_layer("ghost", 4, 4), norm_layer("renorm", 4, 4)
    assert f"virtual batch of {ghost.virtual_batch_size} samples" in said
    assert (
        f"warm-up of {renorm.warmup} steps to a factor of {renorm.r_max:g} and a shift of {renorm.d_max:g}"
        in said
    )
    assert norm_layer("domain", 4, 4).num_domains == 1
    assert "for data of several sources; the data here are one domain, where it is batch norm" in said
