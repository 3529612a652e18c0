import math

import pytest

from batchnorm.bench.cases import PRESETS, copies, distinct, preset
from batchnorm.bench.shapes import NETWORKS, Site, sites


@pytest.mark.parametrize(
    ("network", "count"), [("ResNet-18", 20), ("ResNet-50", 53), ("MobileNetV2", 52), ("EfficientNet-B0", 49)]
)
def test_as_many_batch_norms_as_the_paper_has(network, count):
    assert len(sites(network)) == count


# Channels that are normalized, counted in the architecture tables: half the parameters of the batch norms.
@pytest.mark.parametrize(
    ("network", "channels"),
    [("ResNet-18", 4800), ("ResNet-50", 26560), ("MobileNetV2", 17056), ("EfficientNet-B0", 21008)],
)
def test_as_many_channels_as_the_published_networks_have(network, channels):
    assert sum(site.shape[1] for site in sites(network)) == channels


def test_sizes_and_what_follows():
    resnet = sites("ResNet-18")
    assert (resnet[0].shape, resnet[0].act, resnet[0].residual) == ((16, 64, 112, 112), "relu", False)
    assert (resnet[-1].shape, resnet[-1].act, resnet[-1].residual) == ((16, 512, 7, 7), "relu", True)
    assert sum(site.residual for site in resnet) == 8
    assert sum(site.act is None for site in resnet) == 3
    assert sum(site.residual for site in sites("ResNet-50")) == 16
    mobile = sites("MobileNetV2", images=2)
    assert {site.act for site in mobile} == {"relu6", None}
    assert sum(site.residual for site in mobile) == 10
    assert mobile[-1].shape == (2, 1280, 7, 7)
    assert sum(site.residual for site in sites("EfficientNet-B0")) == 9
    assert {site.act for site in sites("EfficientNet-B0")} == {"silu", None}


def test_a_shape_is_measured_alone_and_with_what_follows_it_once():
    site = Site("n", (2, 3), "relu")
    found = distinct([site, Site("m", (2, 3), "relu"), Site("m", (2, 3), None)])
    assert found == [((2, 3), None, False, ("n", "m")), ((2, 3), "relu", False, ("n", "m"))]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_hold_each_case_once_and_every_network(name):
    cases = preset(name)
    assert len({case.key for case in cases}) == len(cases)
    assert {network for case in cases for network in case.networks} == set(NETWORKS)
    assert {case.layout for case in cases if len(case.shape) == 2} == {"contiguous"}
    assert any(case.compiled for case in cases)


def test_full_holds_every_batch_norm_in_both_layouts_and_dtypes():
    found = {(case.shape, case.act, case.residual, case.layout, case.dtype) for case in preset("full")}
    for network in NETWORKS:
        for site in sites(network):
            for layout in ("contiguous", "channels_last")[: 2 if len(site.shape) == 4 else 1]:
                for dtype in ("float32", "bfloat16"):
                    assert (site.shape, site.act, site.residual, layout, dtype) in found
                    assert (site.shape, None, False, layout, dtype) in found


def test_bytes():
    case = next(case for case in preset("full") if case.dtype == "bfloat16")
    assert case.bytes == 2 * math.prod(case.shape)
    assert case.record()["bytes"] == case.bytes


def test_the_physical_limit_in_copies():
    assert copies(None, False, "forward") == copies("relu", False, "evaluation") == 1
    assert copies(None, False, "forward_backward") == copies("silu", False, "forward_backward") == 2.5
    assert copies("relu", True, "evaluation") == 1.5
    assert copies(None, True, "forward_backward") == 3
    assert copies("relu", True, "forward_backward") == 4
