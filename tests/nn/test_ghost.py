"""Ghost batch norm against a loop: each virtual batch through a batch norm of its own."""

import copy
import functools
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import batchnorm as bn
from batchnorm.errors import ArgumentError, BatchTooSmallError, DimensionError

KINDS = {2: bn.GhostBatchNorm1d, 3: bn.GhostBatchNorm1d, 4: bn.GhostBatchNorm2d, 5: bn.GhostBatchNorm3d}
PLAIN = {2: bn.BatchNorm1d, 3: bn.BatchNorm1d, 4: bn.BatchNorm2d, 5: bn.BatchNorm3d}


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def members(samples: int, size: int, positions: int) -> list[slice]:
    """Which samples make a group, as the docstring says it."""
    groups, rest = divmod(samples, size)
    if samples <= size:
        return [slice(samples)]
    if rest * positions == 1:
        groups, rest = groups - 1, rest + size
    found = [slice(number, groups * size, groups) for number in range(groups)]
    return [*found, slice(groups * size, samples)] if rest else found


def loop(layer: nn.Module, x, residual=None, mask=None, act=None):
    """The output, by a layer without running statistics for each group; and the groups' (count, mean, var)."""
    plain = PLAIN[x.dim()](layer.num_features, eps=layer.eps, track_running_stats=False, dtype=x.dtype)
    plain.weight, plain.bias = layer.weight, layer.bias
    output, moments = torch.zeros_like(x), []
    for group in members(x.size(0), layer.virtual_batch_size, x[0, 0].numel()):
        kept = None if mask is None else mask[group]
        output[group] = plain(x[group], None if residual is None else residual[group], mask=kept, act=act)
        values = x[group].detach().movedim(1, -1)
        values = values.reshape(-1, values.size(-1)) if kept is None else values[kept]
        moments.append((len(values), values.mean(0), values.var(0) if len(values) > 1 else None))
    return output, moments


def typical(moments):
    used = [(count, mean, var) for count, mean, var in moments if count > 1]
    count = sum(count for count, _, _ in used)
    mean = sum(count * mean for count, mean, _ in used) / count
    var = sum((count - 1) * var for count, _, var in used) / sum(count - 1 for count, _, _ in used)
    return mean, var


CASES = [
    ((12, 3), 4, "contiguous"),
    ((13, 3), 4, "contiguous"),  # one sample remains, a single value
    ((5, 3), 4, "contiguous"),  # and joins all others
    ((14, 3), 4, "contiguous"),
    ((9, 3, 4), 4, "contiguous"),  # one sample remains, four values
    ((12, 3, 4), 4, "strided"),
    ((8, 3, 2, 3), 4, "contiguous"),
    ((11, 3, 2, 3), 4, "channels_last"),
    ((8, 3, 2, 3), 1, "channels_last"),
    ((7, 3, 2, 1, 3), 3, "contiguous"),
    ((6, 3, 2, 1, 3), 3, "channels_last"),
    ((6, 1, 2, 3), 2, "contiguous"),
    ((4, 3), 4, "contiguous"),
    ((3, 3), 4, "contiguous"),
]


def laid_out(x, layout):
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    return x.movedim(0, -1).contiguous().movedim(-1, 0) if layout == "strided" else x


def made(shape, size, **options):
    layer = KINDS[len(shape)](shape[1], virtual_batch_size=size, dtype=torch.float64, **options)
    with torch.no_grad():
        layer.weight.copy_(1 + 0.3 * randn(shape[1], seed=5))
        layer.bias.copy_(0.3 * randn(shape[1], seed=6))
    return layer


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("shape", "size", "layout"), CASES, ids=str)
def test_equals_the_loop_in_output_gradients_and_statistics(shape, size, layout, masked) -> None:
    layer = made(shape, size)
    x = laid_out(randn(*shape) + 3, layout).requires_grad_()
    residual = laid_out(randn(*shape, seed=1), layout).requires_grad_()
    mask = None
    if masked:
        mask = randn(shape[0], *shape[2:], seed=2) > -0.5
        if len(shape) == 2:
            mask[: max(2, shape[0] // 2)] = True
    leaves = [x, residual, layer.weight, layer.bias]
    expected, moments = loop(layer, x, residual, mask, "silu")
    actual = layer(x, residual, act="silu", mask=mask)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)
    assert (
        actual.stride() == torch.empty_like(bn.functional.batch_norm(x, None, None, training=True)).stride()
    )
    grad = randn(*shape, seed=3)
    for mine, theirs in zip(
        torch.autograd.grad(actual, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    mean, var = typical(moments)
    torch.testing.assert_close(layer.running_mean, 0.1 * mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * var, rtol=1e-12, atol=1e-12)
    assert layer.num_batches_tracked == 1


def test_evaluation_is_plain_batch_norm() -> None:
    ghost, plain = made((12, 3, 2, 2), 4), bn.BatchNorm2d(3, dtype=torch.float64)
    ghost(randn(12, 3, 2, 2))
    plain.load_state_dict(ghost.state_dict(), strict=True)
    ghost.load_state_dict(plain.state_dict(), strict=True)
    assert list(ghost.state_dict()) == list(plain.state_dict())
    x = randn(12, 3, 2, 2, seed=1)
    assert torch.equal(ghost.eval()(x), plain.eval()(x))


def test_without_running_statistics_evaluation_has_groups_too() -> None:
    layer = made((12, 3), 4, track_running_stats=False)
    x = randn(12, 3)
    assert torch.equal(layer.eval()(x), layer.train()(x))
    torch.testing.assert_close(layer(x), loop(layer, x)[0])


@pytest.mark.parametrize("shape", [(6, 2), (5, 2, 2)])
def test_first_and_second_derivatives(shape) -> None:
    layer = made(shape, 3)
    x = randn(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: layer(t, act="silu"), (x,))
    assert torch.autograd.gradgradcheck(lambda t: layer(t, act="silu"), (x,))


def test_first_and_second_derivatives_under_a_mask() -> None:
    layer, mask = made((6, 2, 2), 3), randn(6, 2, seed=4) > -0.7
    x = randn(6, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: layer(t, act="silu", mask=mask), (x,))
    assert torch.autograd.gradgradcheck(lambda t: layer(t, act="silu", mask=mask), (x,))


def test_a_group_with_one_valid_value_or_none_moves_nothing_and_stays_in_bounds() -> None:
    layer, x = made((8, 3, 2), 4), randn(8, 3, 2)
    mask = torch.zeros(8, 2, dtype=torch.bool)
    mask[0, 0] = True
    out = layer(x, mask=mask)
    torch.testing.assert_close(out[0, :, 0], layer.bias)
    assert (out[1:] == 0).all()
    assert layer.num_batches_tracked == 0
    assert torch.equal(layer.running_mean, torch.zeros(3).double())
    mask[1::2] = True  # now the other group has values
    x[0, 1, 0] = float("nan")  # of a group that says nothing
    layer(x, mask=mask)
    torch.testing.assert_close(layer.running_mean, 0.1 * x[1::2].mean((0, 2)))
    assert layer.num_batches_tracked == 1


def test_no_stats_update_keeps_the_groups() -> None:
    layer, x = made((12, 3), 4), randn(12, 3)
    with bn.no_stats_update(layer):
        torch.testing.assert_close(layer(x), loop(layer, x)[0])
    assert layer.num_batches_tracked == 0
    assert torch.equal(layer.running_var, torch.ones(3).double())


def test_a_channel_with_nan_keeps_its_statistics() -> None:
    layer, x = made((8, 3, 2), 4), randn(8, 3, 2)
    x[5, 1, 0] = float("nan")
    out = layer(x)
    assert out[1::2, 1].isnan().all()
    assert not out[::2].isnan().any()
    assert layer.running_mean[1] == 0
    assert layer.running_var[1] == 1
    assert (layer.running_mean[[0, 2]] != 0).all()
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_a_packed_sequence_is_what_its_padded_sequences_are(enforce_sorted) -> None:
    lengths = torch.tensor([6, 5, 4, 4, 3, 2, 1] if enforce_sorted else [3, 6, 1, 4, 2, 5, 4])
    x, residual = randn(7, 6, 3), randn(7, 6, 3, seed=1)
    pack = functools.partial(
        pack_padded_sequence, lengths=lengths, batch_first=True, enforce_sorted=enforce_sorted
    )
    padded, packed = made((7, 3, 6), 3), made((7, 3, 6), 3)
    expected = padded(x.mT, residual.mT, act="relu", lengths=lengths).mT
    actual, steps = pad_packed_sequence(packed(pack(x), pack(residual), act="relu"), batch_first=True)
    assert torch.equal(steps, lengths)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(packed.running_var, padded.running_var)
    with pytest.raises(ArgumentError, match="valid values only"):
        packed(pack(x), lengths=lengths)
    with pytest.raises(ArgumentError, match="pack both or neither"):
        packed(pack(x), residual)
    few = pack_padded_sequence(x[:2], lengths[:2], batch_first=True, enforce_sorted=False)
    assert torch.equal(packed(few).data, padded(few).data)


@pytest.mark.parametrize(("shape", "layout"), [((40, 3), "c"), ((37, 3, 4, 4), "channels_last")], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_compiled_layers_do_the_same(shape, layout, masked) -> None:
    torch._dynamo.reset()
    eager, x = made(shape, 8).float(), laid_out(randn(*shape).float(), layout)
    mask = randn(shape[0], *shape[2:], seed=2) > -1 if masked else None
    traced = copy.deepcopy(eager)
    compiled = torch.compile(traced, fullgraph=True, backend="aot_eager")
    for seed in range(2):
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        grad = randn(*shape, seed=seed).float()
        first, second = eager(a, act="relu", mask=mask), compiled(b, act="relu", mask=mask)
        torch.testing.assert_close(second, first)
        first.backward(grad), second.backward(grad)
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(traced.weight.grad, eager.weight.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(traced.running_var, eager.running_var)
        torch.testing.assert_close(traced.running_mean, eager.running_mean)
    assert traced.num_batches_tracked == 2


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recomputed_batch_counts_once(reentrant, momentum) -> None:
    plain, recomputed = made((12, 3, 4), 4, momentum=momentum), made((12, 3, 4), 4, momentum=momentum)
    x, y = randn(12, 3, 4).requires_grad_(), randn(12, 3, 4).requires_grad_()
    for _ in range(2):
        plain(x, act="silu").square().sum().backward()
        checkpoint(lambda t: recomputed(t, act="silu"), y, use_reentrant=reentrant).square().sum().backward()
    assert torch.equal(y.grad, x.grad)
    assert torch.equal(recomputed.weight.grad, plain.weight.grad)
    assert torch.equal(recomputed.running_var, plain.running_var)
    assert recomputed.num_batches_tracked == 2


def everything(ctx, op, *args, **kwargs):
    return CheckpointPolicy.PREFER_SAVE


@pytest.mark.parametrize("policy", [[torch.ops.aten.mul.Tensor, torch.ops.aten.where.self], everything])
def test_selective_checkpointing(policy) -> None:
    plain, recomputed = made((13, 3), 4), made((13, 3), 4)
    x, y = randn(13, 3).requires_grad_(), randn(13, 3).requires_grad_()
    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    plain(x).square().square().sum().backward()
    checkpoint(recomputed, y, use_reentrant=False, context_fn=contexts).square().square().sum().backward()
    torch.testing.assert_close(y.grad, x.grad)
    assert recomputed.num_batches_tracked == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_sum_over_groups_wide(dtype) -> None:
    layer = bn.GhostBatchNorm1d(3, virtual_batch_size=2, dtype=dtype)
    x = randn(512, 3).to(dtype)
    # The groups' parts of the bias's gradient are 1 + 2^-12 and -1: rounded one by one they would cancel.
    grad = torch.zeros(512, 3, dtype=dtype)
    grad[0:256:2], grad[256::2], grad[1:256:2] = 1, 2**-12, -1
    layer(x).backward(grad)
    assert (layer.bias.grad == 128 * 2**-12).all()
    wide = bn.GhostBatchNorm1d(3, virtual_batch_size=2, dtype=torch.float64)
    torch.testing.assert_close(layer(x).double(), wide(x.double()), rtol=1e-2, atol=1e-2)
    assert layer.running_var.dtype == torch.float32


def test_autocast_takes_wide_parameters() -> None:
    layer, x = bn.GhostBatchNorm1d(3, virtual_batch_size=4), randn(12, 3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_per_sample_gradients_pass_buffers_or_name_the_remedy() -> None:
    layer, x = made((8, 3), 4), randn(2, 8, 3)
    parameters = dict(layer.named_parameters())
    buffers = {name: torch.stack([buffer] * 2) for name, buffer in layer.named_buffers()}

    def call(buffers, x):
        output = torch.func.functional_call(layer, {**parameters, **buffers}, (x,))
        return output, buffers

    output, moved = torch.func.vmap(call)(buffers, x)
    for batch, y, mean in zip(x, output, moved["running_mean"], strict=True):
        other = made((8, 3), 4)
        torch.testing.assert_close(other(batch), y)
        torch.testing.assert_close(other.running_mean, mean)
    with pytest.raises(RuntimeError, match="batch_norm_with_stats"):
        torch.func.vmap(layer)(x)


@pytest.mark.parametrize("masked", [False, True])
def test_vmap_over_images_gives_each_its_groups(masked) -> None:
    layer, x = made((7, 3, 4, 5), 3), randn(2, 7, 3, 4, 5)
    mask = randn(7, 4, 5, seed=1) < 0.7 if masked else None
    with bn.no_stats_update(layer):
        output = torch.func.vmap(lambda x: layer(x, act="relu", mask=mask))(x)
        for batch, y in zip(x, output, strict=True):
            torch.testing.assert_close(y, layer(batch, act="relu", mask=mask))


@pytest.mark.parametrize("shape", [(8, 0, 3), (8, 3, 0), (0, 3, 4)])
def test_inputs_without_values_are_a_plain_batch_norms(shape) -> None:
    layer, plain = bn.GhostBatchNorm1d(shape[1], virtual_batch_size=4), bn.BatchNorm1d(shape[1])
    assert layer(torch.zeros(shape)).shape == plain(torch.zeros(shape)).shape == shape
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in plain.state_dict().items())


def test_it_is_no_torch_batch_norm_and_torchs_tools_keep_its_result() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), bn.GhostBatchNorm2d(4, virtual_batch_size=2))
    x = randn(6, 3, 5, 5).float()
    model(x)
    assert not isinstance(model[1], nn.modules.batchnorm._BatchNorm)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(converted[1]) is bn.GhostBatchNorm2d
    model.eval()
    torch.testing.assert_close(fuse_conv_bn_eval(model[0], model[1])(x), model(x), rtol=1e-4, atol=1e-5)
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(x), model(x))


def test_copies_keep_the_size() -> None:
    layer = made((12, 3), 4)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(randn(12, 3)), layer(randn(12, 3)))
    assert repr(layer) == (
        "GhostBatchNorm1d(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True, "
        "virtual_batch_size=4)"
    )


def test_errors() -> None:
    for size in (0, -1, 2.0, True, None):
        with pytest.raises(ArgumentError, match="positive number of samples"):
            bn.GhostBatchNorm1d(3, virtual_batch_size=size)
    with pytest.raises(
        BatchTooSmallError, match=r"Expected more than 1 value per channel.*virtual batches of"
    ):
        bn.GhostBatchNorm1d(3, virtual_batch_size=1)(torch.randn(8, 3))
    with pytest.raises(BatchTooSmallError, match="Expected more than 1 value per channel"):
        bn.GhostBatchNorm1d(3)(torch.randn(1, 3))
    with pytest.raises(DimensionError, match="expected 4D input"):
        bn.GhostBatchNorm2d(3)(torch.randn(8, 3))
    with pytest.raises(ArgumentError, match="mask must broadcast"):
        bn.GhostBatchNorm1d(3, virtual_batch_size=2)(torch.randn(8, 3), mask=torch.ones(7, dtype=torch.bool))
