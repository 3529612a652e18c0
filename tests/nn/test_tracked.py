"""The call: act, residual, mask, lengths, PackedSequence, and being one node to torch.fx."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import batchnorm as bn
from batchnorm.errors import ArgumentError, DimensionError, ShapeError, TransformError


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


ACTS = [
    ("relu", nn.ReLU()),
    ("relu6", nn.ReLU6()),
    ("leaky_relu", nn.LeakyReLU()),
    (nn.LeakyReLU(0.3), nn.LeakyReLU(0.3)),
    ("silu", nn.SiLU()),
    ("gelu", nn.GELU()),
    (nn.GELU(approximate="tanh"), nn.GELU(approximate="tanh")),
    ("hardswish", nn.Hardswish()),
    ("elu", nn.ELU()),
    (nn.ELU(0.5), nn.ELU(0.5)),
    (nn.Identity(), nn.Identity()),
]


@pytest.mark.parametrize(("act", "module"), ACTS, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_act_and_residual_are_what_the_separate_modules_do(act, module, training) -> None:
    fused, plain = bn.BatchNorm2d(3).train(training), nn.BatchNorm2d(3).train(training)
    x, r = randn(4, 3, 5, 5), randn(4, 3, 5, 5, seed=1)
    leaves = [tensor.clone().requires_grad_() for tensor in (x, r, x, r)]
    ours = fused(leaves[0], leaves[1], act=act)
    theirs = module(plain(leaves[2]) + leaves[3])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    grad = randn(4, 3, 5, 5, seed=2)
    ours.backward(grad), theirs.backward(grad)
    torch.testing.assert_close(leaves[0].grad, leaves[2].grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(leaves[1].grad, leaves[3].grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fused.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-4)


class Doubled(nn.ReLU):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("act", ["tanh", nn.Tanh(), Doubled(), F.relu, 3])
def test_an_unknown_activation_names_the_known_ones(act) -> None:
    with pytest.raises(ArgumentError, match="relu, relu6, leaky_relu"):
        bn.BatchNorm1d(3)(randn(4, 3), act=act)


def test_the_input_may_be_its_own_residual() -> None:
    x = randn(4, 3, 2, 2).double().requires_grad_()
    layer = bn.BatchNorm2d(3).double()
    assert torch.autograd.gradcheck(lambda t: layer.train()(t, t, act="silu"), (x,))
    assert torch.autograd.gradgradcheck(lambda t: layer.train()(t, t, act="silu"), (x,))
    first, again = (
        torch.autograd.grad(layer(x, x, act="silu").square().sum(), x, create_graph=create)[0]
        for create in (False, True)
    )
    torch.testing.assert_close(again, first)


def test_a_residual_of_another_shape_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"residual should have the input's shape \(4, 3\), got \(1, 3\)"):
        bn.BatchNorm1d(3)(randn(4, 3), randn(1, 3))


LENGTHS = torch.tensor([7, 5, 2, 1])
VALID = torch.arange(7) < LENGTHS.unsqueeze(1)


def concatenated(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(1, -1)[VALID]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("how", ["mask", "lengths"])
def test_padding_equals_the_concatenated_values(how, training) -> None:
    x = randn(4, 3, 7)
    x[~VALID.unsqueeze(1).expand_as(x)] = float("nan")
    padded, flat = bn.BatchNorm1d(3), bn.BatchNorm1d(3)
    padded(randn(4, 3, 7)), flat(randn(4, 3, 7))
    padded.train(training), flat.train(training)
    a, b = x.clone().requires_grad_(), concatenated(x).requires_grad_()
    out = padded(a, act="silu", **({"mask": VALID} if how == "mask" else {"lengths": LENGTHS}))
    expected = flat(b, act="silu")
    torch.testing.assert_close(concatenated(out), expected)
    assert (out.movedim(1, -1)[~VALID] == 0).all()
    grad = randn(4, 3, 7, seed=3)
    out.backward(grad), expected.backward(concatenated(grad))
    torch.testing.assert_close(concatenated(a.grad), b.grad)
    assert (a.grad.movedim(1, -1)[~VALID] == 0).all()
    torch.testing.assert_close(padded.weight.grad, flat.weight.grad)
    torch.testing.assert_close(padded.running_var, flat.running_var)
    torch.testing.assert_close(padded.running_mean, flat.running_mean)


def test_no_gradient_reaches_the_residual_at_invalid_positions() -> None:
    r = randn(4, 3, 7)
    r[~VALID.unsqueeze(1).expand_as(r)] = float("nan")
    r.requires_grad_()
    for act in (None, "silu"):
        bn.BatchNorm1d(3)(randn(4, 3, 7), r, act=act, mask=VALID).sum().backward()
        assert (r.grad.movedim(1, -1)[~VALID] == 0).all()
        assert torch.isfinite(r.grad).all()


@pytest.mark.parametrize("valid", [0, 1])
def test_a_mask_that_leaves_one_value_or_none_raises_nothing_and_moves_nothing(valid) -> None:
    mask = torch.zeros(4, 7, dtype=torch.bool)
    mask.view(-1)[:valid] = True
    layer = bn.BatchNorm1d(3)
    out = layer(randn(4, 3, 7), mask=mask)
    assert (out == 0).all()
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert torch.equal(layer.running_var, torch.ones(3))


def test_a_mask_broadcasts() -> None:
    x, mask = randn(4, 3, 5, 6), torch.rand(5, 6) < 0.5
    layer, other = bn.BatchNorm2d(3), bn.BatchNorm2d(3)
    assert torch.equal(layer(x, mask=mask), other(x, mask=mask.expand(4, 5, 6)))
    assert torch.equal(layer.running_var, other.running_var)


@pytest.mark.parametrize(
    "layer", [bn.BatchNorm1d(3), bn.ChannelsLastBatchNorm(3)], ids=lambda m: type(m).__name__
)
def test_a_packed_sequence_is_normalized_over_its_values_and_packed_again(layer) -> None:
    x = randn(4, 7, 3)
    packed = pack_padded_sequence(x, LENGTHS.flip(0), batch_first=True, enforce_sorted=False)
    out = layer(packed, packed, act="relu")
    padded, lengths = pad_packed_sequence(out, batch_first=True)
    assert torch.equal(lengths, LENGTHS.flip(0))
    valid = VALID.flip(0)
    expected = F.relu(F.batch_norm(x[valid], None, None, training=True) + x[valid])
    torch.testing.assert_close(padded[valid], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.running_mean, 0.1 * x[valid].mean(0))


PACKED = pack_padded_sequence(randn(4, 7, 3), LENGTHS, batch_first=True)


@pytest.mark.parametrize(
    ("error", "said", "call"),
    [
        (
            ArgumentError,
            "mask must be bool",
            lambda: bn.BatchNorm1d(3)(randn(4, 3, 7), mask=torch.ones(4, 7)),
        ),
        (ArgumentError, "mask must broadcast", lambda: bn.BatchNorm1d(3)(randn(4, 3, 7), mask=VALID[:, :5])),
        (ArgumentError, "not both", lambda: bn.BatchNorm1d(3)(randn(4, 3, 7), mask=VALID, lengths=LENGTHS)),
        (ArgumentError, "lengths must be", lambda: bn.BatchNorm1d(3)(randn(4, 3, 7), lengths=LENGTHS[:2])),
        (
            ArgumentError,
            "lengths must be",
            lambda: bn.BatchNorm1d(3)(randn(4, 3, 7), lengths=LENGTHS.float()),
        ),
        (ArgumentError, "batch of sequences", lambda: bn.BatchNorm1d(3)(randn(4, 3), lengths=LENGTHS)),
        (ArgumentError, "batch of sequences", lambda: bn.BatchNorm2d(3)(randn(4, 3, 2, 2), lengths=LENGTHS)),
        (ArgumentError, "pack both or neither", lambda: bn.BatchNorm1d(3)(PACKED, randn(15, 3))),
        (ArgumentError, "pack both or neither", lambda: bn.BatchNorm1d(3)(randn(15, 3), PACKED)),
        (ArgumentError, "valid values only", lambda: bn.BatchNorm1d(3)(PACKED, lengths=LENGTHS)),
        (DimensionError, "takes no PackedSequence", lambda: bn.BatchNorm2d(3)(PACKED)),
        (TypeError, "must be Tensor, not list", lambda: bn.functional.batch_norm([1.0], None, None)),
    ],
)
def test_misuse_is_named(error, said, call) -> None:
    with pytest.raises(error, match=said):
        call()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = bn.BatchNorm2d(3)

    def forward(self, x, mask):
        return self.bn(self.conv(x), x, act="relu", mask=mask)


def test_fx_traces_a_layer_as_one_node_that_keeps_state_and_mode() -> None:
    block = Block()
    traced = torch.fx.symbolic_trace(block)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["conv", "bn"]
    x, mask = randn(4, 3, 5, 5), torch.rand(4, 5, 5) < 0.8
    for mode in (True, False):
        traced.train(mode), block.train(mode)
        torch.testing.assert_close(traced(x, mask), block(x, mask))
    assert traced.bn.num_batches_tracked == 2  # one module: each of the two training calls moved it
    assert list(traced.state_dict()) == list(block.state_dict())


def test_fx_cannot_trace_a_layer_that_is_the_root() -> None:
    with pytest.raises(TransformError, match=r"nn\.Sequential"):
        torch.fx.symbolic_trace(bn.BatchNorm2d(3))


def test_the_functional_form_is_one_node_to_fx() -> None:
    def net(x, mean, var):
        return bn.functional.batch_norm(x, mean, var, act="relu")

    traced = torch.fx.symbolic_trace(net)
    args = randn(4, 3), torch.zeros(3), torch.ones(3)
    assert torch.equal(traced(*args), net(*args))
