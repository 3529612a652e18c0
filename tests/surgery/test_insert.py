import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import batchnorm.nn as ours
from batchnorm.errors import ArgumentError, ConversionError
from batchnorm.surgery import convert, insert, insert_
from batchnorm.surgery.layers import batch_norm_paths
from tests.surgery.foreign import (
    Attention,
    BasicBlock,
    Dynamic,
    Functional,
    Heads,
    Residual,
    SqueezeExcite,
)

IMAGE = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
SEQUENCE = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(0))
SIGNAL = torch.randn(4, 3, 9, generator=torch.Generator().manual_seed(0))

ALL = {
    "functional": (Functional, IMAGE, 3, {ours.BatchNorm2d: 2, ours.BatchNorm1d: 1}),
    "residual": (Residual, IMAGE, 5, {ours.BatchNorm2d: 5}),
    "gates": (SqueezeExcite, IMAGE, 2, {ours.BatchNorm2d: 2}),
    "attention": (Attention, SEQUENCE, 1, {ours.ChannelsLastBatchNorm: 1}),
    "dynamic": (Dynamic, SIGNAL, 2, {ours.BatchNorm1d: 2}),
    "heads": (Heads, ROWS, 1, {ours.BatchNorm1d: 1}),
}


def make(name):
    kind, x, count, norms = ALL[name]
    torch.manual_seed(0)
    return kind(), x, count, norms


def norms_of(model):
    return [model.get_submodule(path) for path in batch_norm_paths(model)]


@pytest.fixture(params=[(name, placement) for name in ALL for placement in ("before", "after")], ids="-".join)
def inserted(request):
    name, placement = request.param
    model, x, count, norms = make(name)
    return model, insert(model, placement, example=x), x, count, norms


def test_number_and_kinds(inserted):
    _, new, _, count, norms = inserted
    found = norms_of(new)
    assert len(found) == count
    assert {kind: sum(type(n) is kind for n in found) for kind in norms} == norms


def test_old_keys_and_values_stay(inserted):
    model, new, *_ = inserted
    state = new.state_dict()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    added = set(state) - set(model.state_dict())
    assert added
    assert all(key.startswith(batch_norm_paths(new)) for key in added)
    assert isinstance(new, type(model))
    assert not batch_norm_paths(model)


def test_without_its_norms_it_is_the_old_model(inserted):
    model, new, x, *_ = inserted
    bare = convert(new, "none")
    for training in (True, False):
        outputs = []
        for net in (model, bare):
            torch.manual_seed(3)
            outputs.append(net.train(training)(x))
        assert torch.equal(*outputs)


def test_every_norm_runs_once_a_pass_and_trains(inserted):
    _, new, x, *_ = inserted
    loss = new.train()(x).square().mean()
    loss.backward()
    assert all(norm.num_batches_tracked == 1 for norm in norms_of(new))
    assert all(p.grad is not None for n, p in new.named_parameters() if "unused" not in n)
    before = [norm.running_mean.clone() for norm in norms_of(new)]
    new.eval()(x)
    assert all(torch.equal(a, norm.running_mean) for a, norm in zip(before, norms_of(new), strict=True))


def test_copies_and_pickles(inserted):
    _, new, x, *_ = inserted
    new(x)
    new.eval()
    expected = new(x)
    for other in (copy.deepcopy(new), pickle.loads(pickle.dumps(new)), copy.deepcopy(copy.deepcopy(new))):
        assert torch.equal(other(x), expected)
        assert list(other.state_dict()) == list(new.state_dict())
        with torch.no_grad():
            next(other.parameters()).add_(1)
        other.train()(x)
    assert torch.equal(new(x), expected)
    assert new.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize("placement", ["before", "after"])
def test_the_order_of_norm_and_activation(placement):
    model = insert(Residual(), placement, example=IMAGE)
    lows = []
    for norm in norms_of(model):
        norm.register_forward_hook(lambda m, i, o: lows.append(i[0].min().item()))
    # A value that the relu in place overwrites is read before: hooks run before it.
    model(IMAGE)
    assert len(lows) == 5
    assert all((low >= 0) == (placement == "after") for low in lows)


@pytest.mark.parametrize("placement", ["before", "after"])
def test_against_a_network_written_by_hand(placement):
    model = Functional().eval()
    new = insert(model, placement, example=IMAGE)
    a, b, c = norms_of(new)
    for norm in (a, b, c):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)

    def act(x, norm):
        return F.relu(norm(x)) if placement == "before" else norm(F.relu(x))

    x = act(F.max_pool2d(model.conv1(IMAGE), 2), a)
    x = act(F.max_pool2d(model.conv2(x), 2), b)
    x = act(model.fc1(x.view(-1, 320)), c)
    expected = F.log_softmax(model.fc2(x), dim=1)
    torch.testing.assert_close(new(IMAGE), expected)


@pytest.mark.parametrize("placement", ["before", "after"])
def test_self_made_swish_is_one_activation(placement):
    model = SqueezeExcite().eval()
    new = insert(model, placement, example=IMAGE)
    swish, silu = norms_of(new)
    swish.running_mean.fill_(0.3)
    silu.running_mean.fill_(-0.2)
    x = model.conv(IMAGE)
    x = F.silu(swish(x)) if placement == "before" else swish(F.silu(x))
    s = model.down(F.adaptive_avg_pool2d(x, 1))
    s = F.silu(silu(s)) if placement == "before" else silu(F.silu(s))
    expected = model.fc((x * torch.sigmoid(model.up(s))).mean((2, 3)))
    torch.testing.assert_close(new(IMAGE), expected)


def test_dropout_by_flag_still_follows_the_mode():
    new = insert(Functional(), "after", example=IMAGE)
    new.conv2_drop.p = 0.0
    new.eval()
    assert torch.equal(new(IMAGE), new(IMAGE))
    for norm in norms_of(new.train()):
        norm.eval()
    assert not torch.equal(new(IMAGE), new(IMAGE))


def test_a_flag_of_a_submodule_is_read_there():
    class Inner(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.5, self.training)

    net = nn.Sequential(nn.Linear(6, 40), Inner(), nn.PReLU(), nn.Linear(40, 3))
    new = insert(net, "before", example=ROWS)
    new.train()
    new[1].eval()
    norms_of(new)[0].eval()
    assert torch.equal(new(ROWS), new(ROWS))
    new[1].train()
    assert not torch.equal(new(ROWS), new(ROWS))


@pytest.mark.parametrize(
    ("first", "x", "kind"),
    [
        (nn.Linear(6, 8), ROWS, ours.BatchNorm1d),
        (nn.Conv1d(3, 8, 3), SIGNAL, ours.BatchNorm1d),
        (nn.Conv2d(1, 8, 3), IMAGE, ours.BatchNorm2d),
        (nn.ConvTranspose2d(1, 8, 3), IMAGE, ours.BatchNorm2d),
        (nn.Conv3d(1, 8, 3), torch.randn(2, 1, 5, 5, 5), ours.BatchNorm3d),
        (nn.Linear(6, 8), SEQUENCE, ours.ChannelsLastBatchNorm),
        (nn.Linear(28, 8), IMAGE, ours.ChannelsLastBatchNorm),
    ],
)
def test_ranks(first, x, kind):
    net = nn.Sequential(first, nn.Dropout(0.1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    new = insert(net, example=x)
    assert [type(n) for n in norms_of(new)] == [kind]
    assert norms_of(new)[0].num_features == 8
    assert new(x).shape[-1] == 2


def test_without_an_example_channels_come_from_the_layer_before():
    for name in ("functional", "residual"):
        model, x, _, _ = make(name)
        assert [n.num_features for n in norms_of(insert(model))] == [
            n.num_features for n in norms_of(insert(model, example=x))
        ]


def test_without_an_example_what_is_unclear_asks_for_one():
    with pytest.raises(ConversionError, match=r"does not show its channels; pass example=a batch"):
        insert(nn.Sequential(nn.Unflatten(1, (3, 2)), nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)))
    with pytest.raises(ConversionError, match=r"pass example=a batch"):
        insert(Attention())


def test_arguments_that_the_example_leaves_out_keep_their_defaults():
    model = Heads()
    new = insert(model, example=ROWS).eval()
    new(ROWS, scale=1.0, mask=None)
    with pytest.raises(ArgumentError, match="mask: expected None, for which batch norm was inserted"):
        new(ROWS, torch.ones(5, 8))
    masked = insert(model, example=(ROWS, torch.zeros(5, 8))).eval()
    torch.testing.assert_close(masked(ROWS, torch.zeros(5, 8)), model.out(torch.zeros(5, 8)))
    named = insert(model, example={"x": ROWS, "scale": 2.0}).eval()
    torch.testing.assert_close(named(ROWS, scale=3.0), 3 * new(ROWS))


def test_in_place_is_the_same_object_with_its_methods():
    model = Residual()
    parameters = list(model.parameters())
    assert insert_(model, "after", example=IMAGE) is model
    assert type(model).__name__ == "Residual"
    assert isinstance(model, Residual)
    assert isinstance(model.layers[0], BasicBlock)
    assert model.features(IMAGE).shape == (4, 16, 14, 14)
    assert [p for p in model.parameters() if any(p is q for q in parameters)] == parameters


def test_nothing_is_drawn_and_no_trace_is_left():
    for name in ALL:
        model, x, *_ = make(name)
        model.train()
        state, before, attributes = (
            torch.get_rng_state(),
            copy.deepcopy(model.state_dict()),
            dict(vars(model)),
        )
        insert(model, example=x)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert vars(model) == attributes
        assert all(m.training and not m._forward_hooks for m in model.modules())
        assert torch.is_grad_enabled()


def test_one_module_called_twice_gets_two_norms():
    act = nn.Tanh()
    net = nn.Sequential(nn.Linear(6, 8), act, nn.Linear(8, 7), act, nn.Linear(7, 2))
    new = insert(net)
    assert [norm.num_features for norm in norms_of(new)] == [8, 7]
    assert torch.isfinite(new(ROWS)).all()


def test_a_buffer_that_forward_changes_still_changes():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count.add_(1)
            return self.b(torch.relu(self.a(x)))

    for example in (None, ROWS):
        new = insert(Counting(), example=example)
        assert new.count == 0
        new(ROWS)
        new(ROWS)
        assert new.count == 2


def test_a_flag_given_to_a_layer_is_that_of_the_caller():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.a, self.b = nn.MultiheadAttention(6, 2), nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x):
            x, weights = self.attention(x, x, x, need_weights=self.training)
            return self.b(torch.relu(self.a(x))), weights

    new = insert(Net(), example=SEQUENCE)
    new.eval().attention.train()
    assert new(SEQUENCE)[1] is None
    new.train().attention.eval()
    assert new(SEQUENCE)[1] is not None


def test_device_type_and_mode_follow_the_model():
    assert not any(module.training for module in insert(Functional().eval(), example=IMAGE).modules())
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).to(torch.bfloat16).eval()
    (norm,) = norms_of(insert(net, example=ROWS.bfloat16()))
    assert norm.weight.dtype == torch.bfloat16
    assert norm.running_mean.dtype == torch.float32
    assert not norm.training
    meta = insert(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).to("meta"))
    assert all(t.is_meta for t in meta.state_dict().values())


def test_then_convert():
    new = insert(Attention(), "after", example=SEQUENCE)
    layer = convert(new, "layer", example=SEQUENCE)
    assert sum(isinstance(m, nn.LayerNorm) for m in layer.modules()) == 2
    assert torch.isfinite(layer(SEQUENCE)).all()
    again = insert(convert(insert(Functional(), example=IMAGE), "none"), example=IMAGE)
    assert torch.equal(pickle.loads(pickle.dumps(again)).eval()(IMAGE), again.eval()(IMAGE))


def test_torch_can_compile_and_trace_the_result():
    new = insert(Functional(), example=IMAGE).eval()
    assert torch.equal(torch.fx.symbolic_trace(new)(IMAGE), new(IMAGE))


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (
            nn.Sequential(nn.ReLU()),
            {"placement": "behind"},
            "placement: expected before or after, got 'behind'",
        ),
        (nn.Sequential(nn.BatchNorm1d(3)), {}, "has batch norms already, first '0'; use convert"),
        (nn.BatchNorm1d(3), {}, "first 'the model itself'; use convert"),
        (nn.Linear(6, 2), {"example": ROWS}, "no hidden activation (ReLU, ReLU6,"),
        (Functional(), {"example": ROWS}, "on the example the model raised RuntimeError: "),
        (Dynamic(), {"example": ROWS}, "and on the example it raised RuntimeError: "),
        (
            nn.Sequential(nn.AdaptiveAvgPool1d(4), nn.ReLU(), nn.Conv1d(3, 2, 1)),
            {"example": SIGNAL},
            "at '1' there is no telling (N, C, L) from (N, L, C) in (4, 3, 4)",
        ),
        (
            nn.Sequential(
                nn.Linear(6, 1), nn.Flatten(0), nn.ReLU(), nn.Unflatten(0, (-1, 1)), nn.Linear(1, 1)
            ),
            {"example": ROWS},
            "needs 2 to 5 dimensions, batch first, got (5)",
        ),
    ],
)
def test_refusals_in_one_line(model, arguments, message):
    text = repr(model)
    with pytest.raises(ConversionError) as caught:
        insert_(model, **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert repr(model) == text
