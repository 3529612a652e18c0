import textwrap

import joblib
import pytest
import torch
from torch import nn

import batchnorm.nn as ours
from batchnorm.errors import ModelError, UsageError
from batchnorm.lab.models import brings_its_own_norms, build
from batchnorm.surgery.layers import batch_norm_paths

FILE = """
import torch
from torch import nn
from torch.nn import functional as F
from neighbour import WIDTH

class Plain(nn.Module):
    def __init__(self, num_classes, in_channels=1, dropout=0.0, width=WIDTH):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3)
        self.conv2 = nn.Conv2d(width, width, 3)
        self.fc = nn.LazyLinear(num_classes)
        self.dropout = dropout

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        return self.fc(F.dropout(x.flatten(1), self.dropout, self.training))

def with_norms():
    import late
    return nn.Sequential(nn.Conv2d(1, late.WIDTH, 3), nn.BatchNorm2d(8, eps=0.01), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(),
                         nn.Linear(16, 10))

def rows(in_channels, num_classes):
    return nn.Sequential(nn.Linear(in_channels, 20), nn.Tanh(), nn.Linear(20, num_classes))

def anything(**settings):
    return nn.Sequential(nn.Flatten(), nn.Linear(256, settings["width"]), nn.ReLU(), nn.LazyLinear(10))
KEPT = nn.Linear(2, 2)
def kept(): return KEPT
def raises(): raise RuntimeError("no such\\nluck")
def leaves(): raise SystemExit(2)
def text(): return "net"
def needs(width): return nn.Linear(width, 2)
def wide(): return nn.Sequential(nn.Flatten(), nn.Linear(256, 9), nn.ReLU(), nn.Linear(9, 3))
def pair(): return Pair()
def breaks(): return nn.Sequential(nn.Flatten(), nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 10))
def lazy(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(9), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(10))
def two_faced(): return TwoFaced()
class TwoFaced(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(256, 9), nn.BatchNorm1d(9), nn.Linear(9, 10))
    def forward(self, x): return (self.net(x), x) if self.training else self.net(x)
class Twofold(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm, self.out = nn.Linear(256, 9), nn.BatchNorm1d(9), nn.Linear(9, 10)
        self.pairs = [(self.fc, self.norm)]
    def forward(self, x):
        x = x.flatten(1)
        for layer, norm in self.pairs: x = norm(layer(x))
        return self.out(x)
def pairs(): return Twofold()
def closure():
    net = Twofold()
    norm = net.norm
    net.pairs = [(net.fc, lambda x: norm(x))]
    return net
def no_activation(): return nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(256, 10), nn.ReLU(), nn.Linear(10, 10))
    def forward(self, x): return self.net(x), x
"""


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    (tmp_path / "neighbour.py").write_text("WIDTH = 8\n")
    (tmp_path / "late.py").write_text("WIDTH = 8\n")
    (tmp_path / "mine.py").write_text(textwrap.dedent(FILE))
    monkeypatch.chdir(tmp_path)


def make(name="Plain", arm="batch", placement="after", shape=(1, 16, 16), seed=0, **more):
    example = torch.randn(4, *shape, generator=torch.Generator().manual_seed(9))
    torch.manual_seed(seed)
    target = name if ":" in name else f"mine.py:{name}"
    network = build(target, arm, placement, input_shape=shape, num_classes=10, example=example, **more)
    return network, example


@pytest.mark.parametrize("arm", ["none", "batch", "layer", "group", "instance", "local"])
@pytest.mark.parametrize("placement", ["before", "after"])
def test_norms_are_put_in_where_there_are_none(arm, placement):
    network, x = make(arm=arm, placement=placement)
    kinds = {type(network.module.get_submodule(site)) for site in network.sites}
    expected = {
        "none": nn.Identity,
        "batch": ours.BatchNorm2d,
        "layer": nn.GroupNorm,
        "group": nn.GroupNorm,
        "instance": nn.InstanceNorm2d,
        "local": nn.LocalResponseNorm,
    }
    assert kinds == {expected[arm]}
    assert len(network.sites) == 2
    assert network.placement == (None if arm == "none" else placement)
    nn.functional.cross_entropy(network.module(x), torch.arange(4)).backward()


@pytest.mark.parametrize("arm", ["none", "batch", "layer", "group"])
def test_norms_of_its_own_are_exchanged(arm):
    if arm == "group":
        with pytest.raises(
            ModelError, match=r"layer '6': 'group' on \(N, 16\) would be 16 groups of one value"
        ):
            make("with_norms", arm)
        return
    network, x = make("with_norms", arm)
    assert network.sites == ("1", "6")
    assert network.placement == (None if arm == "none" else "own")
    kinds = [type(network.module[1]), type(network.module[6])]
    expected = {
        "none": [nn.Identity] * 2,
        "batch": [ours.BatchNorm2d, ours.BatchNorm1d],
        "layer": [nn.GroupNorm, nn.LayerNorm],
    }
    assert kinds == expected[arm]
    assert arm == "none" or network.module[1].eps == 0.01
    assert network.module(x).shape == (4, 10)


@pytest.mark.parametrize("name", ["Plain", "with_norms"])
def test_weights_outside_norms_agree_between_arms(name):
    def weights(arm, placement, seed=0):
        network, _ = make(name, arm, placement, seed=seed)
        state = network.module.state_dict()
        return {key: value for key, value in state.items() if not key.startswith(network.sites)}

    reference = weights("none", "after")
    assert reference
    for arm, placement in (("batch", "after"), ("batch", "before"), ("layer", "before")):
        other = weights(arm, placement)
        assert list(other) == list(reference)
        assert all(torch.equal(other[key], reference[key]) for key in reference)
    assert not torch.equal(next(iter(weights("batch", "after", 1).values())), next(iter(reference.values())))


def test_rows():
    network, x = make("rows", "layer", shape=(30,))
    assert type(network.module.get_submodule(network.sites[0])) is nn.LayerNorm
    assert network.module(x).shape == (4, 10)


@pytest.mark.parametrize("arm", ["none", "batch", "layer"])
def test_lazy_layers_get_their_shapes(arm):
    network, _ = make("lazy", arm)
    expected = {"none": nn.Identity, "batch": ours.BatchNorm1d, "layer": nn.LayerNorm}
    assert type(network.module[2]) is expected[arm]
    assert network.module[1].in_features == 256
    assert torch.equal(network.module[1].weight, make("lazy")[0].module[1].weight)


def test_settings_reach_the_factory():
    assert make(width="12")[0].module.conv1.out_channels == 12
    assert make("anything", width=5)[0].module[1].out_features == 5
    assert make(dropout=0.25)[0].module.dropout == 0.25


def test_the_example_leaves_no_trace():
    network, _ = make()
    after = torch.rand(1)
    norms = [network.module.get_submodule(site) for site in network.sites]
    assert all(norm.num_batches_tracked == 0 and (norm.running_mean == 0).all() for norm in norms)
    assert all(m.training for m in network.module.modules())
    network, _ = make(arm="none")
    assert torch.equal(torch.rand(1), after)


def test_a_module_of_torchvisions_kind_by_package(monkeypatch, tmp_path):
    (tmp_path / "zoo_of_mine").mkdir()
    (tmp_path / "zoo_of_mine" / "__init__.py").write_text("")
    (tmp_path / "zoo_of_mine" / "nets.py").write_text((tmp_path / "mine.py").read_text())
    assert make("zoo_of_mine.nets:Plain")[0].sites


def test_in_a_worker_process():
    def sites(seed):
        network, _ = make(seed=seed)
        return network.sites, network.module.state_dict()["conv1.bias"]

    here = [sites(seed) for seed in (0, 1)]
    there = joblib.Parallel(n_jobs=2)(joblib.delayed(sites)(seed) for seed in (0, 1))
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(here, there, strict=True))


def test_own_norms_are_told():
    def own(name):
        return brings_its_own_norms(f"mine.py:{name}", input_shape=(1, 16, 16), num_classes=10)

    state = torch.get_rng_state()
    assert own("with_norms") is True
    assert own("Plain") is False
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ModelError, match="returned the same weights twice"):
        own("kept")


@pytest.mark.parametrize(
    ("name", "more", "error", "message"),
    [
        ("mine.py:nothing", {}, ModelError, "mine.py has no 'nothing'; it has KEPT, Pair, Plain"),
        ("gone.py:net", {}, ModelError, "there is no file 'gone.py'"),
        ("gone.py:", {}, ModelError, "expected file.py:name"),
        ("raises", {}, ModelError, "mine.py:raises raised RuntimeError: no such luck ("),
        ("raises", {}, ModelError, "mine.py, line 3"),
        ("leaves", {}, ModelError, "raised SystemExit: 2"),
        ("text", {}, ModelError, "must return an nn.Module, got a str"),
        ("KEPT", {}, ModelError, "mine.py:KEPT is a model; expected a function"),
        (
            "needs",
            {},
            ModelError,
            "needs 'width', which has no default; give it one, or pass --set model.width=",
        ),
        ("wide", {}, ModelError, "must return (2, 10) (samples, classes), got (2, 3)"),
        ("pair", {}, ModelError, "must return a tensor (2, 10) (samples, classes), got a tuple"),
        ("breaks", {}, ModelError, "raised RuntimeError: mat1 and mat2"),
        ("two_faced", {}, ModelError, "must return a tensor (2, 10) (samples, classes), got a tuple"),
        ("no_activation", {}, ModelError, "no hidden activation"),
        ("rows", {"shape": (1, 16, 16), "arm": "local"}, ModelError, "raised RuntimeError: mat1 and mat2"),
        ("rows", {"shape": (30,), "arm": "local"}, ModelError, "is for images"),
        ("rows", {"shape": (30,), "arm": "instance"}, ModelError, "'instance' has no meaning on (N, 20)"),
        (
            "Plain",
            {"wdith": 3},
            UsageError,
            "takes no such argument; its arguments: model.num_classes, model.in_",
        ),
        (
            "wide",
            {"width": 3},
            UsageError,
            "model.width: mine.py:wide takes no such argument; its arguments: none",
        ),
        ("wide", {"dropout": 0.5}, ModelError, "takes no argument 'dropout'"),
    ],
)
def test_refusals_in_one_line(name, more, error, message):
    with pytest.raises(error) as caught:
        make(name, **more)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_inserted_norms_are_the_only_ones():
    network, _ = make("with_norms", "none")
    assert batch_norm_paths(network.module) == ()


def test_norms_in_nested_containers_leave_for_arm_none():
    network = make("pairs", "none")[0].module
    assert type(network.pairs[0][1]) is nn.Identity


def test_norms_that_cannot_be_exchanged_are_refused():
    with pytest.raises(ModelError, match=r"mine.py:closure: .*still uses the old layer at 'norm'"):
        make("closure", "none")
