"""FrozenBatchNorm: the running statistics in both modes, nothing that moves, a batch norm's checkpoints."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import batchnorm as bn
from batchnorm.errors import ArgumentError, DimensionError

RANKS = [
    (bn.FrozenBatchNorm1d, nn.BatchNorm1d, (6, 3)),
    (bn.FrozenBatchNorm1d, nn.BatchNorm1d, (6, 3, 5)),
    (bn.FrozenBatchNorm2d, nn.BatchNorm2d, (6, 3, 5, 4)),
    (bn.FrozenBatchNorm3d, nn.BatchNorm3d, (6, 3, 2, 5, 4)),
]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def trained(kind: type[nn.Module], dtype: torch.dtype = torch.float32) -> nn.Module:
    layer = kind(3, dtype=dtype)
    with torch.no_grad():
        for number, name in enumerate(("weight", "bias", "running_mean", "running_var")):
            getattr(layer, name).copy_(randn(3, seed=number).abs() + 0.5)
        layer.num_batches_tracked.fill_(7)
    return layer


def frozen_copy(kind: type[nn.Module], source: nn.Module) -> nn.Module:
    layer = kind(3, dtype=source.weight.dtype)
    layer.load_state_dict(source.state_dict())
    return layer


@pytest.mark.parametrize(("kind", "torchs", "shape"), RANKS)
@pytest.mark.parametrize("training", [True, False])
def test_it_is_torchs_evaluation_in_both_modes(kind, torchs, shape, training) -> None:
    theirs = trained(torchs).eval()
    ours = frozen_copy(kind, theirs).train(training)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    a, b = randn(*shape).requires_grad_(), randn(*shape).requires_grad_()
    r, s = randn(*shape, seed=5).requires_grad_(), randn(*shape, seed=5).requires_grad_()
    y, z = ours(a, r, act="silu"), nn.functional.silu(theirs(b) + s)
    torch.testing.assert_close(y, z)
    grad = randn(*shape, seed=6)
    y.backward(grad), z.backward(grad)
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(r.grad, s.grad)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, before[name]), name
        assert value.grad is None


def test_no_optimizer_finds_anything_to_move() -> None:
    layer = bn.FrozenBatchNorm2d(3)
    assert list(layer.parameters()) == []
    layer.requires_grad_(True)
    assert not layer.weight.requires_grad
    assert not isinstance(layer, nn.modules.batchnorm._BatchNorm)


def test_the_state_dict_is_that_of_a_batch_norm_both_ways() -> None:
    source = trained(bn.BatchNorm2d)
    layer = frozen_copy(bn.FrozenBatchNorm2d, source)
    assert list(layer.state_dict()) == list(source.state_dict())
    back = bn.BatchNorm2d(3)
    back.load_state_dict(layer.state_dict())
    for name, value in source.state_dict().items():
        assert torch.equal(back.state_dict()[name], value)


@pytest.mark.parametrize("version", [None, 1, 2])
def test_a_checkpoint_without_a_counter_loads(version) -> None:
    state = trained(nn.BatchNorm2d).state_dict()
    del state["num_batches_tracked"]
    state._metadata[""] = {} if version is None else {"version": version}
    layer = bn.FrozenBatchNorm2d(3)
    layer.load_state_dict(state)
    assert torch.equal(layer.running_var, state["running_var"])
    assert layer.num_batches_tracked == 0


def test_a_checkpoint_without_a_counter_leaves_nothing_on_the_meta_device() -> None:
    state = trained(nn.BatchNorm2d).state_dict()
    del state["num_batches_tracked"]
    layer = bn.FrozenBatchNorm2d(3, device="meta")
    layer.load_state_dict(state, assign=True)
    assert layer.to("cpu").num_batches_tracked == 0
    assert torch.equal(layer.running_var, state["running_var"])


def test_assigned_parameters_become_buffers() -> None:
    source = trained(bn.BatchNorm2d)
    layer = bn.FrozenBatchNorm2d(3)
    layer.load_state_dict(source.state_dict(keep_vars=True), assign=True)
    assert list(layer.parameters()) == []
    assert layer.weight.data_ptr() == source.weight.data_ptr()
    assert not layer.weight.requires_grad
    assert list(layer.state_dict()) == list(source.state_dict())


def test_statistics_stay_wide_and_parameters_follow_the_type() -> None:
    layer = frozen_copy(bn.FrozenBatchNorm2d, trained(bn.BatchNorm2d)).bfloat16()
    assert layer.weight.dtype == layer.bias.dtype == torch.bfloat16
    assert layer.running_mean.dtype == layer.running_var.dtype == torch.float32
    x = randn(2, 3, 4, 4).bfloat16()
    exact = frozen_copy(bn.FrozenBatchNorm2d, trained(bn.BatchNorm2d)).double()
    for name in ("weight", "bias"):
        getattr(exact, name).copy_(getattr(layer, name))
    torch.testing.assert_close(layer(x).double(), exact(x.double()), rtol=2**-8, atol=0)


def test_gradients_of_both_orders() -> None:
    layer = frozen_copy(bn.FrozenBatchNorm2d, trained(bn.BatchNorm2d)).double().train()
    x = randn(2, 3, 3, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: layer(t, act="silu"), (x,))
    assert torch.autograd.gradgradcheck(lambda t: layer(t, act="silu"), (x,))


def test_one_value_a_channel_is_enough_in_training() -> None:
    assert bn.FrozenBatchNorm2d(3).train()(randn(1, 3, 1, 1)).shape == (1, 3, 1, 1)


def test_mask_lengths_and_packed_sequences() -> None:
    layer = frozen_copy(bn.FrozenBatchNorm1d, trained(bn.BatchNorm1d)).train()
    x, lengths = randn(2, 3, 5), torch.tensor([5, 2])
    out = layer(x, lengths=lengths)
    assert (out[1, :, 2:] == 0).all()
    torch.testing.assert_close(out[1, :, :2], layer(x)[1, :, :2])
    packed = pack_sequence([randn(4, 3), randn(2, 3)])
    assert torch.equal(layer(packed).data, layer(packed.data))


@pytest.mark.parametrize("options", [{"affine": False}, {"bias": False}])
def test_without_weight_or_bias(options) -> None:
    plain, layer = bn.BatchNorm2d(3, **options).eval(), bn.FrozenBatchNorm2d(3, **options)
    assert list(layer.state_dict()) == list(plain.state_dict())
    x = randn(2, 3, 4, 4)
    assert torch.equal(layer(x), plain(x))


def test_a_copy_is_a_layer_of_its_own() -> None:
    layer = frozen_copy(bn.FrozenBatchNorm2d, trained(bn.BatchNorm2d))
    other = copy.deepcopy(layer)
    layer.weight.zero_()
    assert (other.weight != 0).all()


def test_compiled_in_one_graph() -> None:
    layer = frozen_copy(bn.FrozenBatchNorm2d, trained(bn.BatchNorm2d)).train()
    x, y = randn(2, 3, 4, 4).requires_grad_(), randn(2, 3, 4, 4).requires_grad_()
    eager, run = layer(x), torch.compile(layer, fullgraph=True, backend="aot_eager")(y)
    torch.testing.assert_close(run, eager)
    eager.square().sum().backward(), run.square().sum().backward()
    torch.testing.assert_close(y.grad, x.grad)


def test_fx_takes_it_as_one_node() -> None:
    model = nn.Sequential(frozen_copy(bn.FrozenBatchNorm2d, trained(bn.BatchNorm2d)))
    traced = torch.fx.symbolic_trace(model)
    x = randn(2, 3, 4, 4)
    assert torch.equal(traced(x), model(x))


def test_misuse_is_named() -> None:
    with pytest.raises(ArgumentError, match="track_running_stats must be True"):
        bn.FrozenBatchNorm2d(3, track_running_stats=False)
    with pytest.raises(DimensionError, match="expected 4D input"):
        bn.FrozenBatchNorm2d(3)(randn(2, 3))
    assert repr(bn.FrozenBatchNorm2d(3)) == "FrozenBatchNorm2d(3, eps=1e-05, affine=True, bias=True)"
