"""The layer inside training: DDP, several forwards, checkpointing, second derivatives, groups, compilation."""

import copy
import functools

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import batchnorm as bn
from tests.contract.oracle import oracle

SIZES = (5, 2, 0, 3)
X = torch.randn(10, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


class Net(nn.Module):
    """Three norms with a residual and an activation between; the last may be one that was called before."""

    def __init__(self, norm, run, shares):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = norm(3), norm(3)
        self.last = self.second if shares else norm(3)
        self.conv = nn.Conv1d(3, 3, 3, padding=1)
        self.run = run

    def block(self, x):
        return self.second(self.conv(self.first(x)), x, act="relu")

    def forward(self, x):
        return self.last(self.run(self.block, x))


def plainly(block, x):
    return block(x)


def reentrant(block, x):
    return checkpoint(block, x, use_reentrant=True)


def not_reentrant(block, x):
    return checkpoint(block, x, use_reentrant=False)


def save_everything(ctx, op, *args, **kwargs):
    return CheckpointPolicy.PREFER_SAVE


def selective(block, x):
    contexts = functools.partial(create_selective_checkpoint_contexts, save_everything)
    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


def state(model):
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    return grads, dict(model.state_dict())


def weight_of(outputs, seed):
    return torch.randn(10, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trained_alone(shares):
    """Two forwards, then one backward, and a third forward and backward whose gradients accumulate."""
    model, x = Net(bn.BatchNorm1d, plainly, shares).double(), X.clone().requires_grad_()
    first, second = model(x), model(2 * x)
    (first * weight_of(first, 1) + second * weight_of(second, 2)).sum().backward()
    third = model(x.square())
    (third * weight_of(third, 3)).sum().backward()
    return first.detach(), x.grad, *state(model)


def trained_together(run, shares):
    model = Net(bn.SyncBatchNorm, run, shares).double()
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    rank = dist.get_rank()
    x = X.split(SIZES)[rank].clone().requires_grad_()
    mine = [weight_of(None, seed).split(SIZES)[rank] for seed in (1, 2, 3)]
    with wrapped.no_sync():
        first, second = wrapped(x), wrapped(2 * x)
        (first * mine[0] + second * mine[1]).sum().backward()
    third = wrapped(x.square())
    (third * mine[2]).sum().backward()
    return first.detach(), x.grad, *state(model)


@pytest.mark.parametrize("run", [plainly, reentrant, not_reentrant, selective])
def test_ddp_with_several_forwards_before_one_backward(world, run) -> None:
    shares = run is not reentrant  # DDP refuses parameters used in a reentrant checkpoint and outside of it
    found = world.run(trained_together, run, shares)
    output, grad, grads, buffers = trained_alone(shares)
    torch.testing.assert_close(torch.cat([part[0] for part in found]), output, **CLOSE)
    torch.testing.assert_close(torch.cat([part[1] for part in found]), grad, **CLOSE)
    for _, _, mine, kept in found:
        for name, expected in grads.items():
            torch.testing.assert_close(4 * mine[name], expected, **CLOSE)  # DDP takes the mean of four
        for name, expected in buffers.items():
            torch.testing.assert_close(kept[name], expected, **CLOSE)
        assert kept["first.num_batches_tracked"] == 3


def sharded(dtype):
    model = Net(bn.SyncBatchNorm, plainly, True)
    fully_shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=dtype))
    y = model(X.float().split(SIZES)[dist.get_rank()])
    y.float().square().sum().backward()
    return y.detach(), model.first.running_mean, model.conv.weight.grad.full_tensor()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_fsdp(world, dtype) -> None:
    found = world.run(sharded, dtype)
    model = Net(bn.BatchNorm1d, plainly, True)
    expected = model(X.float())
    expected.square().sum().backward()
    bound = 1e-5 if dtype is None else 0.1
    output = torch.cat([part for part, _, _ in found])
    torch.testing.assert_close(output, expected.detach(), rtol=bound, atol=bound, check_dtype=False)
    for part, mean, grad in found:
        assert part.dtype == (dtype or torch.float32)
        # bfloat16 inputs are rounded to 8 bits; the statistics of them are not.
        torch.testing.assert_close(
            mean, model.first.running_mean, rtol=1e-6 if dtype is None else 1e-3, atol=0
        )
        if dtype is None:
            torch.testing.assert_close(4 * grad, model.conv.weight.grad, rtol=1e-4, atol=1e-4)


def second_derivatives(act, masked):
    x, residual, weight, bias = inputs()
    rank = dist.get_rank()
    mask = mask_of_all().split(SIZES)[rank] if masked else None
    layer = with_parameters(bn.SyncBatchNorm(3), weight, bias)
    part, added = (t.split(SIZES)[rank].detach().requires_grad_() for t in (x, residual))
    y = layer(part, added, act=act, mask=mask)
    return penalty(y, (part, added, weight, bias), weight_of(y, 4).split(SIZES)[rank])


def inputs():
    generator = torch.Generator().manual_seed(5)
    weight, bias = (1 + 0.3 * torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(2))
    residual = torch.randn(X.shape, generator=generator, dtype=torch.float64)
    return X, residual, weight.requires_grad_(), bias.requires_grad_()


def mask_of_all():
    return torch.rand(10, 4, generator=torch.Generator().manual_seed(6)) < 0.7


def with_parameters(layer, weight, bias):
    layer.weight, layer.bias = None, None
    layer._parameters.update(weight=weight, bias=bias)
    return layer


def penalty(y, wanted, cotangent):
    """Gradients of the output, and those of their cubes: of x and residual each rank its own, of the rest its sum."""
    grads = torch.autograd.grad((y * cotangent).sum(), wanted[:2], create_graph=True)
    again = torch.autograd.grad(sum(g.pow(3).sum() for g in grads) + y.pow(3).sum(), wanted)
    return [g.detach() for g in grads], list(again)


@pytest.mark.parametrize(("act", "masked"), [(None, False), ("silu", True), ("relu", False)])
def test_second_derivatives_go_through_all_ranks(world, act, masked) -> None:
    found = world.run(second_derivatives, act, masked)
    x, residual, weight, bias = inputs()
    x, residual = x.clone().requires_grad_(), residual.clone().requires_grad_()
    mask = mask_of_all() if masked else None
    y = oracle(x, weight=weight, bias=bias, residual=residual, act=act, mask=mask).output
    grads, again = penalty(y, (x, residual, weight, bias), weight_of(y, 4))
    for index, expected in enumerate(grads):
        torch.testing.assert_close(torch.cat([part[0][index] for part in found]), expected, **CLOSE)
    for index, expected in enumerate(again[:2]):
        torch.testing.assert_close(torch.cat([part[1][index] for part in found]), expected, **CLOSE)
    for index in (2, 3):
        torch.testing.assert_close(sum(part[1][index] for part in found), again[index], **CLOSE)


@functools.cache
def pair_of_this_rank():
    pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    return pairs[dist.get_rank() // 2], pairs[1 - dist.get_rank() // 2]


def in_pairs():
    group, _ = pair_of_this_rank()
    layer = bn.SyncBatchNorm(3, process_group=group).double()
    x = X.split(SIZES)[dist.get_rank()].clone().requires_grad_()
    layer(x).pow(3).sum().backward()
    return layer.running_mean, x.grad


def test_a_process_group_joins_its_own_ranks(world) -> None:
    found = world.run(in_pairs)
    for pair, part in ((found[:2], X[:7]), (found[2:], X[7:])):
        x = part.clone().requires_grad_()
        oracle(x).output.pow(3).sum().backward()
        torch.testing.assert_close(torch.cat([grad for _, grad in pair]), x.grad, **CLOSE)
        for mean, _ in pair:
            torch.testing.assert_close(mean, 0.1 * part.mean((0, 2)))


def in_the_other_pair():
    _, other = pair_of_this_rank()
    bn.SyncBatchNorm(3, process_group=other)(torch.randn(4, 3))


def test_a_rank_outside_of_the_group_is_told(world) -> None:
    for how, text in world.outcomes(in_the_other_pair):
        assert how == "raised"
        assert "ArgumentError: process_group must be one that this rank is in" in text


def copies():
    group, _ = pair_of_this_rank()
    return copy.deepcopy(bn.SyncBatchNorm(3, process_group=group)).process_group is group


def test_a_copy_is_in_the_same_group(world) -> None:
    assert world.run(copies) == [True] * 4


def too_small(mask):
    rank = dist.get_rank()
    layer = bn.SyncBatchNorm(3)
    # One rank alone has a mask, and the others must know of it.
    layer(torch.ones(int(rank == 2), 3), mask=torch.ones(int(rank == 2), dtype=torch.bool) if mask else None)
    return layer.num_batches_tracked.item(), layer.running_var


def test_one_value_on_all_ranks_together_is_refused_on_each(world) -> None:
    for rank, (how, text) in enumerate(world.outcomes(too_small, False)):
        assert how == "raised"
        assert "BatchTooSmallError: Expected more than 1 value per channel when training" in text
        assert f"torch.Size([{int(rank == 2)}, 3]) on this rank" in text
    for tracked, var in world.run(too_small, True):
        assert tracked == 0
        assert torch.equal(var, torch.ones(3))


def one_rank_has_a_mask():
    rank = dist.get_rank()
    mask = torch.tensor([rank == 3] * 2) if rank > 1 else None
    layer = bn.SyncBatchNorm(3).double()
    layer(X.split((1, 0, 2, 7))[rank][:2, :, 0] if rank else X[:0, :, 0], mask=mask)
    return layer.num_batches_tracked.item(), layer.running_mean


def test_ranks_with_and_without_a_mask_go_together(world) -> None:
    for tracked, mean in world.run(one_rank_has_a_mask):
        assert tracked == 1
        torch.testing.assert_close(mean, 0.1 * X[3:5, :, 0].mean(0))


def bad_value_on_one_rank():
    layer = bn.SyncBatchNorm(3)
    x = torch.randn(4, 3)
    if dist.get_rank() == 1:
        x[0, 0] = float("nan")
    return layer(x), layer.running_mean


def test_a_bad_value_on_one_rank_reaches_the_running_statistics_of_none(world) -> None:
    for output, mean in world.run(bad_value_on_one_rank):
        assert output[:, 0].isnan().all()
        assert output[:, 1:].isfinite().all()
        assert mean[0] == 0
        assert (mean[1:] != 0).all()


def averaged():
    cumulative, untracked = (
        bn.SyncBatchNorm(3, momentum=None).double(),
        bn.SyncBatchNorm(3, track_running_stats=False),
    )
    for x in (X, 2 * X):
        cumulative(x.split(SIZES)[dist.get_rank()])
    with bn.no_stats_update(cumulative):
        cumulative(X.split(SIZES)[dist.get_rank()])
    return cumulative.running_mean, untracked.double()(X.split(SIZES)[dist.get_rank()])


def test_cumulative_and_no_running_statistics(world) -> None:
    found = world.run(averaged)
    for mean, _ in found:
        torch.testing.assert_close(mean, 1.5 * X.mean((0, 2)))
    torch.testing.assert_close(torch.cat([output for _, output in found]), oracle(X).output)


def strides(backend):
    with bn.backend(backend):
        transposed = bn.SyncBatchNorm(3)(torch.randn(4, 5, 3).transpose(1, 2))
        images = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
        return transposed.is_contiguous(), bn.SyncBatchNorm(3)(images).stride() == images.stride()


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_output_lies_in_memory_as_torchs_does(world, backend) -> None:
    assert world.run(strides, backend) == [(True, True)] * 4


def nobody_has_data():
    layer = bn.SyncBatchNorm(3)
    x = torch.empty(0, 3, 4, requires_grad=True)
    layer(x).sum().backward()
    return layer.num_batches_tracked.item(), layer.running_mean.sum().item(), x.grad.shape, layer.weight.grad


def test_a_batch_that_is_empty_on_all_ranks(world) -> None:
    for tracked, mean, shape, grad in world.run(nobody_has_data):
        assert (tracked, mean, shape) == (1, 0, (0, 3, 4))
        assert torch.equal(grad, torch.zeros(3))


def alone():
    layer = bn.SyncBatchNorm(3)
    if dist.get_rank() == 1:
        layer.eval()(torch.randn(5, 3))
        bn.SyncBatchNorm(3, track_running_stats=False).eval()(torch.randn(5, 3))
        return True
    return False


def test_one_rank_alone_may_evaluate(world) -> None:
    assert world.run(alone) == [False, True, False, False]


def compiled(fullgraph):
    rank = dist.get_rank()
    model = DistributedDataParallel(Net(bn.SyncBatchNorm, plainly, True), broadcast_buffers=False)
    fast = torch.compile(model, backend="aot_eager", fullgraph=fullgraph)
    x = X.float().split((4, 2, 1, 3))[rank]
    for _ in range(2):
        (fast(x) * weight_of(None, 1).float().split((4, 2, 1, 3))[rank]).sum().backward()
    evaluated = torch.compile(model.module.eval(), backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(evaluated, model.module(x))
    return state(model.module)


def test_torch_compile_breaks_its_graph_at_the_layer(world) -> None:
    found = world.run(compiled, False)
    model, x = Net(bn.BatchNorm1d, plainly, True), X.float()
    for _ in range(2):
        (model(x) * weight_of(None, 1).float()).sum().backward()
    grads, buffers = state(model)
    for mine, kept in found:
        for name, expected in grads.items():
            torch.testing.assert_close(4 * mine[name], expected, rtol=1e-4, atol=1e-4)
        for name, expected in buffers.items():
            torch.testing.assert_close(kept[name], expected, rtol=1e-5, atol=1e-5)


def compiled_alone_with_fullgraph():
    torch.compile(bn.SyncBatchNorm(3), backend="eager", fullgraph=True)(torch.randn(4, 3))


def test_fullgraph_says_that_the_layer_is_not_traced(world) -> None:
    for how, text in world.outcomes(compiled_alone_with_fullgraph):
        assert how == "raised"
        assert "torch._dynamo.exc.Unsupported" in text
        assert "normalize_and_track" in text


def per_sample(transform):
    layer = bn.SyncBatchNorm(3)
    if transform == "grad":
        torch.func.grad(lambda x: layer(x).sum())(torch.randn(4, 3))
    elif transform == "jvp":
        torch.func.jvp(layer, (torch.randn(4, 3),), (torch.randn(4, 3),))
    elif transform == "trace":
        torch.jit.trace(layer, torch.randn(4, 3))
    elif transform == "export":
        torch.export.export(layer, (torch.randn(4, 3),), strict=False)
    elif transform == "make_fx":
        torch.fx.experimental.proxy_tensor.make_fx(layer)(torch.randn(4, 3))
    elif transform == "batched":
        x = torch.randn(4, 3, requires_grad=True)
        torch.autograd.grad(layer(x), x, torch.randn(2, 4, 3), is_grads_batched=True)


@pytest.mark.parametrize("transform", ["grad", "jvp", "trace", "export", "make_fx", "batched"])
def test_what_cannot_pass_the_layer_is_told(world, transform) -> None:
    for how, text in world.outcomes(per_sample, transform):
        assert how == "raised"
        assert "TransformError: batch norm over several processes cannot" in text
