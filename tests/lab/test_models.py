import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import batchnorm as bn
from batchnorm.errors import ModelError, UsageError
from batchnorm.lab import arms
from batchnorm.lab.models import KNOWN, brings_its_own_norms, build

IMAGE_ARMS = tuple(arm for arm in arms.KNOWN if arm != "recurrent")
ROW_ARMS = ("none", "batch", "layer", "group")
BATCH_ARMS = ("ghost", "renorm", "frozen", "domain", "sync")
PLACED = tuple(model for model in KNOWN if model != "lstm")


def make(model="lenet", arm="batch", placement="after", shape=(3, 32, 32), classes=10, seed=0, **more):
    generator = torch.Generator().manual_seed(1)
    example = torch.randn(6, *shape, generator=generator)
    torch.manual_seed(seed)
    network = build(model, arm, placement, input_shape=shape, num_classes=classes, example=example, **more)
    return network, example


class Seed002(nn.Module):
    """The network as the blog post prints it, its layers renamed."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.norm1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.norm2 = nn.BatchNorm2d(16)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.norm1(x)
        x = self.pool(F.relu(self.conv2(x)))
        x = self.norm2(x)
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


def test_lenet_is_that_of_the_seed():
    network, x = make()
    original = Seed002()
    original.load_state_dict(network.module.state_dict())
    torch.testing.assert_close(network.module(x), original(x))
    assert network.sites == ("norm1", "norm2")


def test_lenet_before_the_activation():
    network, x = make(placement="before")
    net = network.module
    x1 = net.pool(F.relu(net.norm1(net.conv1(x))))
    x2 = net.pool(F.relu(net.norm2(net.conv2(x1))))
    hidden = F.relu(net.fc2(F.relu(net.fc1(x2.flatten(1)))))
    torch.testing.assert_close(net(x), net.fc3(hidden))


@pytest.mark.parametrize(
    ("model", "arm", "placement"),
    [
        *itertools.product(("lenet", "vgg", "resnet"), IMAGE_ARMS, ("before", "after")),
        *itertools.product(("mlp",), ROW_ARMS + BATCH_ARMS, ("before", "after")),
        *itertools.product(("lstm",), (*ROW_ARMS, *BATCH_ARMS, "recurrent"), ("after",)),
    ],
)
def test_every_arm_trains_and_has_its_layers_at_the_sites(model, arm, placement):
    network, x = make(model, arm, placement)
    loss = F.cross_entropy(network.module(x), torch.arange(6))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.module.parameters())
    expected = type(arms.norm_layer(arm, 100, 2 if model in ("mlp", "lstm") else 4, steps=8))
    assert network.sites
    assert all(type(network.module.get_submodule(site)) is expected for site in network.sites)
    own = "own" if model == "lstm" else placement
    assert network.placement == (None if arm == "none" else own)


@pytest.mark.parametrize("model", KNOWN)
def test_weights_outside_norms_agree_between_arms_and_follow_the_seed(model):
    def weights(arm, placement, seed):
        network, _ = make(model, arm, placement, seed=seed)
        state = network.module.state_dict()
        return {key: value for key, value in state.items() if not key.startswith(network.sites)}

    reference = weights("none", "after", 0)
    assert any(key.endswith("bias") and "conv" in key for key in reference) or model in ("mlp", "lstm")
    for arm in ROW_ARMS:
        for placement in ("before", "after"):
            other = weights(arm, placement, 0)
            assert sorted(other) == sorted(reference)
            assert all(torch.equal(other[key], reference[key]) for key in reference)
    assert not all(
        torch.equal(a, b)
        for a, b in zip(reference.values(), weights("batch", "after", 1).values(), strict=True)
    )


@pytest.mark.parametrize("model", PLACED)
@pytest.mark.parametrize("placement", ["before", "after"])
def test_order_of_norm_and_activation(model, placement):
    network, x = make(model, placement=placement)
    seen = {}
    for site in network.sites:
        layer = network.module.get_submodule(site)
        layer.register_forward_hook(lambda m, i, o, site=site: seen.__setitem__(site, i[0].min().item()))
    network.module(x)
    # Behind a relu nothing is negative; in front of it something is.
    assert len(seen) == len(network.sites)
    assert all((low >= 0) == (placement == "after") for low in seen.values())


@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize("model", KNOWN)
def test_channels_and_sizes(model, size):
    network, x = make(model, shape=(1, size, size), classes=7)
    assert network.module(x).shape == (6, 7)


def test_mlp_on_rows_and_its_settings():
    network, x = make("mlp", shape=(30,), classes=2, hidden="20,10", activation="tanh")
    assert [tuple(p.shape) for n, p in network.module.named_parameters() if n.endswith("linear.weight")] == [
        (20, 30),
        (10, 20),
    ]
    assert sum(isinstance(m, nn.Tanh) for m in network.module.modules()) == 2
    assert network.module(x).shape == (6, 2)


@pytest.mark.parametrize(("read", "steps", "features"), [("rows", 8, 24), ("pixels", 64, 3)])
def test_the_recurrent_arm_of_the_lstm_is_batch_norm_lstm(read, steps, features):
    network, x = make("lstm", "recurrent", read=read, hidden=5)
    net, layer = network.module, bn.BatchNormLSTM(features, 5, steps, batch_first=True)
    layer.load_state_dict(
        {
            "weight_ih": net.from_input.weight,
            "weight_hh": net.from_hidden.weight,
            **{
                f"{site}.{key}": value
                for site in network.sites
                for key, value in net.get_submodule(site).state_dict().items()
                if (site, key) != ("norm_hh", "bias")
            },
        }
    )
    with torch.no_grad():
        layer.norm_ih.bias.copy_(net.bias)
    fresh = bn.BatchNormLSTM(features, 5, steps)
    assert torch.equal(layer.norm_ih.bias, fresh.norm_ih.bias)
    assert torch.equal(net.from_hidden.weight[10:15], torch.eye(5))
    pooled = F.adaptive_avg_pool2d(x, 8).permute(0, 2, 3, 1).reshape(len(x), steps, features)
    expected = net.output(layer(pooled)[1][0][0])
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(net.norm_c.running_var, layer.norm_c.running_var)


def test_norms_of_the_lstm_start_at_a_tenth_where_they_use_batch_statistics():
    for arm, weight in (("batch", 0.1), ("recurrent", 0.1), ("ghost", 0.1), ("layer", 1.0)):
        net = make("lstm", arm)[0].module
        assert all(
            (net.get_submodule(site).weight == weight).all() for site in ("norm_ih", "norm_hh", "norm_c")
        )


def test_the_recurrent_arm_needs_a_network_that_steps():
    for model in PLACED:
        with pytest.raises(UsageError, match=r"'recurrent' has statistics of each time step .*--model lstm"):
            make(model, "recurrent")


def test_depth_of_the_residual_network():
    assert len(make("resnet", depth="14")[0].sites) == 13
    assert len(make("resnet", depth=8, width=4)[0].sites) == 7
    assert len(make("vgg", widths="8,8", hidden="16")[0].sites) == 4


@pytest.mark.parametrize(
    ("model", "count"), [("lenet", 2), ("mlp", 3), ("vgg", 2), ("resnet", 1), ("lstm", 1)]
)
def test_dropout_stands_before_fully_connected_layers(model, count):
    network, x = make(model, dropout=0.5)
    calls = []
    for module in network.module.modules():
        if isinstance(module, nn.Dropout):
            assert module.p == 0.5
            module.register_forward_hook(lambda m, i, o: calls.append(i[0].dim()))
    network.module(x)
    assert calls == [2] * count


@pytest.mark.parametrize("model", KNOWN)
def test_the_check_leaves_no_trace(model):
    network, _ = make(model)
    after_build = torch.rand(1)
    state = network.module.state_dict()
    assert all(value.item() == 0 for key, value in state.items() if key.endswith("num_batches_tracked"))
    assert all((value == 0).all() for key, value in state.items() if key.endswith("running_mean"))
    assert all(module.training for module in network.module.modules())
    network, _ = make(model, dropout=0.3)
    assert torch.equal(torch.rand(1), after_build)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"model": "lenett"},
            ModelError,
            "unknown 'lenett'; known: lenet, mlp, vgg, resnet, lstm, or your own",
        ),
        ({"arm": "bach"}, UsageError, "unknown arm 'bach'; known: none, batch"),
        ({"placement": "middle"}, UsageError, "expected before or after, got 'middle'"),
        ({"shape": (1, 8, 8)}, ModelError, "at least 16x16, the data gives 8x8"),
        ({"shape": (1, 15, 40)}, ModelError, "at least 16x16, the data gives 15x40"),
        ({"model": "vgg", "shape": (1, 4, 4)}, ModelError, "at least 8x8"),
        ({"model": "resnet", "shape": (1, 8, 8)}, ModelError, "at least 9x9"),
        ({"shape": (30,)}, ModelError, "lenet takes images (C, H, W), the data gives (30,); use mlp"),
        ({"model": "mlp", "arm": "instance"}, UsageError, "'instance' has no meaning on (N, 100)"),
        ({"model": "mlp", "arm": "local"}, UsageError, "is for images"),
        ({"model": "mlp", "width": 3}, UsageError, "mlp has no such setting; its settings: model.hidden"),
        ({"width": 3}, UsageError, "lenet has no such setting; its settings: none"),
        (
            {"model": "mlp", "hidden": "10,x"},
            UsageError,
            "whole numbers from 1 separated by commas, got '10,x'",
        ),
        ({"model": "mlp", "hidden": "10,0"}, UsageError, "got '10,0'"),
        ({"model": "mlp", "activation": "rely"}, UsageError, "one of relu, relu6"),
        ({"model": "resnet", "depth": "9"}, UsageError, "a depth of 6n + 2 (8, 14, 20, 26, ...), got '9'"),
        ({"model": "vgg", "hidden": "1.5"}, UsageError, "a whole number from 1, got '1.5'"),
        ({"arm": "instance", "shape": (1, 16, 16)}, ModelError, "more than 1 spatial element"),
    ],
)
def test_refusals_in_one_line(arguments, error, message):
    with pytest.raises(error) as caught:
        make(**arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 16, 21)])
def test_least_sizes_work(shape):
    assert make(shape=shape)[0].sites


def test_of_the_built_in_networks_the_lstm_has_places_of_its_own():
    for model in KNOWN:
        assert brings_its_own_norms(model, input_shape=(1, 32, 32), num_classes=10) is (model == "lstm")
    with pytest.raises(ModelError, match="unknown 'alexnet'"):
        brings_its_own_norms("alexnet", input_shape=(1, 32, 32), num_classes=10)
