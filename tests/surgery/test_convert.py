import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import batchnorm.nn as ours
from batchnorm.errors import ConversionError, ConversionWarning
from batchnorm.surgery import convert, convert_
from batchnorm.surgery.convert import TARGETS
from batchnorm.surgery.kinds import ChannelsLastGroupNorm


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)) + x)


class Net(nn.Module):
    """Two- and four-dimensional norms, one layer at two places, one frozen, one without state."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=None), nn.ReLU())
        self.block = Block(8)
        self.again = nn.ModuleList([self.block.bn, nn.BatchNorm2d(8, track_running_stats=False)])
        self.head = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16, affine=False), nn.Linear(16, 4))
        self.stem[1].requires_grad_(False)
        self.stem[1].eval()

    def forward(self, x):
        x = self.block(self.stem(x))
        for norm in self.again:
            x = norm(x)
        return self.head(x.mean((2, 3)))


@pytest.fixture
def x():
    return torch.randn(6, 3, 9, 9, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def net(x):
    torch.manual_seed(0)
    net = Net()
    for _ in range(3):
        net(x * 2 + 1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net


def kinds(model):
    return [type(m) for m in model.modules() if "Norm" in type(m).__name__ or isinstance(m, nn.Identity)]


def same_state(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert list(a) == list(b)
    assert all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


@pytest.mark.parametrize("training", [False, True])
def test_round_trip(net, x, training):
    net.train(training)
    mine = convert(net)
    back = convert(mine, to="torch")
    assert kinds(mine) == [ours.BatchNorm2d, ours.BatchNorm2d, ours.BatchNorm2d, ours.BatchNorm1d]
    assert kinds(back) == kinds(net)
    same_state(mine, net)
    same_state(back, net)
    expected = copy.deepcopy(net)(x)
    torch.testing.assert_close(mine(x), expected)
    assert torch.equal(back(x), expected)
    assert [m.training for m in mine.modules()] == [m.training for m in net.modules()]
    flags = {n: p.requires_grad for n, p in net.named_parameters()}
    assert {n: p.requires_grad for n, p in back.named_parameters()} == flags
    mine.load_state_dict(net.state_dict(), strict=True)
    net.load_state_dict(mine.state_dict(), strict=True)


@pytest.mark.parametrize("to", TARGETS)
def test_convert_leaves_the_given_model_alone(net, x, to):
    before, text = copy.deepcopy(net), repr(net)
    state = torch.get_rng_state()
    options = {"group": {"num_groups": 4}, "domain": {"num_domains": 1}}.get(to, {})
    if to in ("frozen", "renorm", "domain"):  # need running statistics
        net.again[1], before.again[1] = nn.Identity(), nn.Identity()
        text = repr(net)
    if to in ("instance", "local"):
        net.head, before.head = nn.Linear(8, 4), nn.Linear(8, 4)
        before.head.load_state_dict(net.head.state_dict())
        text, state = repr(net), torch.get_rng_state()
    new = convert(net, to, example=x, **options)
    assert torch.equal(torch.get_rng_state(), state)
    same_state(net, before)
    assert repr(net) == text
    ids = {id(p) for p in net.parameters()} | {id(b) for b in net.buffers()}
    assert not ids & {id(t) for t in (*new.parameters(), *new.buffers())}
    assert new(x).shape == (6, 4)


def test_in_place_keeps_parameters_optimizers_and_handles(net, x):
    parameters = list(net.parameters())
    optimizer = torch.optim.SGD([p for p in parameters if p.requires_grad], 0.1)
    calls = []
    handle = net.block.bn.register_forward_hook(lambda *_: calls.append(1))
    assert convert_(net) is net
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    before = net.block.bn.weight.detach().clone()
    net(x).square().mean().backward()
    optimizer.step()
    assert not torch.equal(net.block.bn.weight, before)
    assert calls == [1, 1]
    handle.remove()
    net(x)
    assert calls == [1, 1]


def test_one_layer_at_two_places_stays_one(net):
    for to in ("batchnorm", "torch", "ghost", "sync"):
        new = convert(net, to)
        assert new.block.bn is new.again[0]
        assert new.block.bn is not new.again[1]


def test_a_layer_in_a_plain_list_is_exchanged_there_too():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    net.order = [net[1], "text"]
    net.pair = (net[0], 1)
    net.by_name = {"first": net[0]}
    new = convert(net)
    assert new.order[0] is new[1]
    assert new.pair[0] is new[0] is new.by_name["first"]
    assert isinstance(new[0], ours.BatchNorm1d)


@pytest.mark.parametrize("to", ["group", "layer", "none"])
def test_a_model_that_is_itself_a_batch_norm(to):
    layer = nn.BatchNorm2d(8)
    assert not isinstance(convert_(layer, to), nn.BatchNorm2d)
    assert isinstance(convert(layer), ours.BatchNorm2d)


def test_other_layers_compute_what_their_names_say(x):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=0.01))
    with torch.no_grad():
        net[1].weight.uniform_(0.5, 2)
        net[1].bias.uniform_(-1, 1)
    h = net[0](x)
    weight, bias = net[1].weight, net[1].bias
    expected = {
        "group": nn.functional.group_norm(h, 8, weight, bias, 0.01),
        "layer": nn.functional.group_norm(h, 1, weight, bias, 0.01),
        "instance": nn.functional.instance_norm(h, weight=weight, bias=bias, eps=0.01),
        "local": nn.functional.local_response_norm(h, 5),
        "none": h,
    }
    for to, value in expected.items():
        torch.testing.assert_close(convert(net, to)(x), value)
    torch.testing.assert_close(
        convert(net, "group", num_groups=2)(x), nn.functional.group_norm(h, 2, weight, bias, 0.01)
    )


def test_rows_and_sequences_are_told_apart_by_the_example():
    rows = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8))
    sequences = nn.Sequential(nn.Conv1d(5, 8, 3), nn.BatchNorm1d(8))
    assert isinstance(convert(rows, "layer", example=torch.randn(2, 5))[1], nn.LayerNorm)
    assert isinstance(convert(rows, "layer")[1], nn.GroupNorm)
    assert isinstance(convert(sequences, "instance", example=torch.randn(2, 5, 9))[1], nn.InstanceNorm1d)
    both = [convert(rows, "layer", example=e)(torch.ones(3, 5) * 2) for e in (None, torch.randn(2, 5))]
    assert both[0].shape == both[1].shape == (3, 8)


def test_a_layer_that_sees_rows_and_sequences():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(8)

        def forward(self, x):
            return self.norm(self.norm(x).mean(-1))

    x = torch.randn(4, 8, 5)
    assert type(convert(Both(), "layer", example=x).norm) is nn.GroupNorm
    with pytest.raises(ConversionError, match="needs to know"):
        convert(Both(), "instance", example=x)


def test_channels_last():
    net = nn.Sequential(nn.Linear(5, 8), ours.ChannelsLastBatchNorm(8))
    x = torch.randn(4, 7, 5)
    h = net[0](x)
    layer, group, instance = (convert(net, to, example=x) for to in ("layer", "group", "instance"))
    torch.testing.assert_close(layer(x), nn.functional.layer_norm(h, (8,)))
    torch.testing.assert_close(instance(x), nn.functional.instance_norm(h.mT).mT)
    torch.testing.assert_close(group(x), nn.functional.group_norm(h.mT, 8).mT)
    assert isinstance(group[1], ChannelsLastGroupNorm)
    assert convert(net)[1].running_mean.shape == (8,)
    with pytest.raises(ConversionError, match="'1' is a ChannelsLastBatchNorm, and torch has no"):
        convert(net, "torch")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_types(dtype):
    net = nn.Sequential(nn.BatchNorm1d(3)).to(dtype)
    mine = convert(net)
    assert mine[0].running_mean.dtype == torch.float32
    assert mine[0].weight.dtype == dtype
    back = convert(mine, "torch")
    same_state(back, net)
    x = torch.randn(5, 3).to(dtype)
    assert back(x).dtype == mine(x).dtype == dtype


def test_meta_device_allocates_nothing():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, device="meta"), nn.BatchNorm2d(8, device="meta"))
    for to in TARGETS:
        options = {"num_domains": 2} if to == "domain" else {}
        assert all(t.is_meta for t in convert(net, to, **options).state_dict().values())


def test_buffers_that_were_taken_away():
    net = nn.Sequential(nn.BatchNorm1d(3))
    net[0].running_mean = net[0].running_var = None
    mine = convert(net)
    assert mine[0].running_mean is None
    x = torch.randn(5, 3)
    torch.testing.assert_close(mine.eval()(x), net.eval()(x))


def test_no_bias():
    net = nn.Sequential(nn.BatchNorm1d(4))
    net[0].bias = None
    for to in ("batchnorm", "group", "layer"):
        new = convert(net, to, **({"num_groups": 2} if to == "group" else {}))
        assert new[0].bias is None
        assert next(iter(new.state_dict())) == "0.weight"
        assert new(torch.randn(5, 4)).shape == (5, 4)


def test_lazy_layers():
    net = nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d())
    mine = convert(net)
    assert type(mine[1]) is ours.LazyBatchNorm1d
    with pytest.raises(ConversionError, match="'1' has not seen an input; run one batch"):
        convert(net, "group")
    assert type(convert(net, "none")[1]) is nn.Identity
    layer = convert(net, "layer", example=torch.randn(4, 3))
    assert type(layer[1]) is nn.LayerNorm
    assert "_initialize_hook" not in vars(layer[0])
    assert layer(torch.randn(4, 3)).shape == (4, 6)
    assert type(net[1]) is nn.LazyBatchNorm1d
    mine(torch.randn(4, 3))
    assert type(mine[1]) is ours.BatchNorm1d
    assert type(convert(mine, "torch")[1]) is nn.BatchNorm1d


class Swish(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) * 2


def odd_layers():
    parametrized = parametrizations.weight_norm(nn.BatchNorm2d(4).requires_grad_(), dim=None)
    pruned = nn.BatchNorm2d(4)
    prune.random_unstructured(pruned, "weight", 0.5)
    patched = nn.BatchNorm2d(4)
    patched.forward = lambda x: x
    compiled = nn.BatchNorm2d(4)
    compiled._compiled_call_impl = lambda x: x
    return [
        (Swish(4), "test_convert.Swish may compute"),
        (parametrized, "parametrized"),
        (pruned, "holds 'weight_orig'"),
        (patched, "its forward was replaced"),
        (compiled, "compiled by itself"),
    ]


@pytest.mark.parametrize("number", range(5))
def test_a_layer_with_behaviour_of_its_own_is_never_dropped_silently(number):
    layer, reason = odd_layers()[number]
    net = nn.Sequential(nn.BatchNorm2d(4), nn.Sequential(layer))
    with pytest.warns(ConversionWarning, match=reason) as caught:
        mine = convert_(net)
    assert [warning.filename for warning in caught] == [__file__]
    assert "'1.0'" in str(caught[0].message)
    assert mine[1][0] is layer
    assert isinstance(mine[0], ours.BatchNorm2d)
    with pytest.raises(ConversionError, match=reason):
        convert_(net, "none")
    assert isinstance(net[0], ours.BatchNorm2d)


def test_convert_warns_where_it_is_called():
    with pytest.warns(ConversionWarning, match=r"'3' .*; and 2 more$") as caught:
        convert(nn.Sequential(nn.ReLU(), *(Swish(3) for _ in range(5))))
    assert [warning.filename for warning in caught] == [__file__]


def test_converted_models_are_plain_models(net, x):
    mine = convert(net).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(pickle.loads(pickle.dumps(mine))(x), mine(x))
        convert(mine)
    convert(net, "group", num_groups=2, example=x)(x).sum().backward()


def test_a_hook_sees_the_new_layer(net, x):
    seen = []
    net.block.bn.register_forward_hook(lambda module, args, output: seen.append(type(module)))
    convert(net, "layer")(x)
    assert seen == [nn.GroupNorm] * 2


def test_the_example_leaves_no_trace(x):
    net = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.BatchNorm1d(243), nn.Linear(243, 2)).train()
    net.calls = 0
    net.register_forward_hook(lambda m, *_: setattr(m, "calls", m.calls + 1))
    state = torch.get_rng_state()
    new = convert_(net, "layer", example=x)
    assert new.calls == 0
    assert new.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not new[2]._forward_pre_hooks
    assert isinstance(new[2], nn.LayerNorm)


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        (
            "sink",
            {},
            "unknown target 'sink'; known: batchnorm, torch, ghost, renorm, frozen, domain, sync, none, layer, "
            "group, instance, local",
        ),
        ("domain", {}, "to='domain' needs num_domains"),
        ("domain", {"num_domains": 0}, "layer '0': num_domains must be at least 1, got 0"),
        ("ghost", {"virtual_batch_size": 0}, "layer '0': virtual_batch_size must be a positive number"),
        ("ghost", {"size": 4}, "to='ghost' has no option 'size'; its options: virtual_batch_size"),
        ("frozen", {"virtual_batch_size": 4}, "to='frozen' has no option 'virtual_batch_size'"),
        ("layer", {"num_groups": 2}, "to='layer' has no option 'num_groups'; its options: none"),
        ("group", {"groups": 2}, "its options: num_groups"),
        ("group", {"num_groups": 3}, "layer '0': num_groups: expected a divisor of the 8 channels, got 3"),
        ("instance", {}, "layer '1': 'instance' after a 1d or channels-last layer needs to know"),
        ("instance", {"example": torch.randn(4, 8, 2, 2)}, "layer '1': 'instance' has no meaning on (N, 8)"),
        (
            "local",
            {"example": torch.randn(4, 8, 2, 2)},
            "layer '1': 'local' (LocalResponseNorm) is for images",
        ),
        ("layer", {"example": torch.randn(4, 3)}, "example: the model raised ValueError: expected 4D input"),
    ],
)
def test_refusals_name_the_reason_and_change_nothing(to, options, message):
    net = nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm1d(8))
    net.forward = lambda x: net[1](net[0](x).mean((2, 3)))
    layers = list(net)
    with pytest.raises(ConversionError) as caught:
        convert_(net, to, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(net) == layers


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_torchscript_is_refused():
    scripted = torch.jit.trace(nn.Sequential(nn.BatchNorm1d(3)), torch.randn(4, 3))
    with pytest.raises(ConversionError, match="do it before scripting"):
        convert(nn.Sequential(scripted))


def test_a_model_that_cannot_be_copied():
    net = nn.Sequential(nn.BatchNorm1d(3))
    net.held = (torch.ones(2, requires_grad=True) * 2,)
    with pytest.raises(ConversionError, match=r"cannot be copied \(RuntimeError: .*; convert_ changes it"):
        convert(net)
    assert isinstance(convert_(net)[0], ours.BatchNorm1d)
