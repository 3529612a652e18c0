"""RecurrentBatchNorm1d: each step as a batch norm of its own, and many steps in one call."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import batchnorm as bn
from batchnorm.errors import ArgumentError, ArgumentTypeError, BatchTooSmallError, DimensionError, ShapeError

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def step_norms(steps: int, momentum: float | None = 0.1) -> list[nn.BatchNorm1d]:
    layers = [nn.BatchNorm1d(3, momentum=momentum).double() for _ in range(steps)]
    for layer in layers:
        nn.init.constant_(layer.weight, 0.1)
    return layers


def statistics(layer: nn.Module) -> dict[str, torch.Tensor]:
    return {name: getattr(layer, name).clone() for name in STATISTICS}


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_each_step_is_a_batch_norm_of_its_own(momentum, joined, backend) -> None:
    layer = bn.RecurrentBatchNorm1d(3, 4, momentum=momentum).double()
    theirs = step_norms(4, momentum)
    with bn.backend(backend):
        for batch in range(3):
            x = (randn(6, 4, 3, seed=batch).double() * torch.arange(1, 5).view(4, 1)).requires_grad_()
            y = x.detach().clone().requires_grad_()
            r = randn(6, 4, 3, seed=batch + 5).double()
            if joined:
                out = layer(x, r, step=0, act="silu")
            else:
                out = torch.stack([layer(x[:, t], r[:, t], step=t, act="silu") for t in range(4)], 1)
            expected = torch.stack([nn.functional.silu(theirs[t](y[:, t]) + r[:, t]) for t in range(4)], 1)
            torch.testing.assert_close(out, expected)
            grad = randn(6, 4, 3, seed=batch + 9).double()
            layer.zero_grad(), [norm.zero_grad() for norm in theirs]
            out.backward(grad), expected.backward(grad)
            torch.testing.assert_close(x.grad, y.grad)
            for name in ("weight", "bias"):
                total = sum(getattr(norm, name).grad for norm in theirs)
                torch.testing.assert_close(getattr(layer, name).grad, total)
        for name in STATISTICS:
            for t in range(4):
                torch.testing.assert_close(getattr(layer, name)[t], getattr(theirs[t], name))
        layer.eval(), [norm.eval() for norm in theirs]
        expected = torch.stack([theirs[t](x[:, t]) for t in range(4)], 1)
        torch.testing.assert_close(layer(x, step=0), expected)
        torch.testing.assert_close(layer(x[:, 2], step=2), expected[:, 2])


@pytest.mark.parametrize("joined", [True, False])
def test_beyond_the_last_step_its_statistics_serve_and_stay(joined) -> None:
    x = randn(6, 5, 3) + 7
    layer, short = bn.RecurrentBatchNorm1d(3, 2), bn.RecurrentBatchNorm1d(3, 2)
    out = layer(x, step=0) if joined else torch.stack([layer(x[:, t], step=t) for t in range(5)], 1)
    expected = [nn.functional.batch_norm(x[:, t], None, None, training=True) * 0.1 for t in range(5)]
    torch.testing.assert_close(out, torch.stack(expected, 1), rtol=1e-5, atol=1e-6)
    short(x[:, :2], step=0)
    for name, value in statistics(short).items():
        assert torch.equal(statistics(layer)[name], value), name
    layer.eval()
    later = layer(x, step=0)[:, 3] if joined else layer(x[:, 3], step=3)
    torch.testing.assert_close(later, layer(x[:, 3], step=1))
    assert not torch.allclose(later, layer(x[:, 3], step=0))


@pytest.mark.parametrize("training", [True, False])
def test_a_mask_counts_the_sequences_that_go_on(training) -> None:
    layer, single = bn.RecurrentBatchNorm1d(3, 4), bn.RecurrentBatchNorm1d(3, 4)
    for norm in (layer, single):
        norm(randn(6, 4, 3), step=0)
        norm.train(training)
    lengths = torch.tensor([4, 3, 3, 2, 1, 1])
    mask = torch.arange(4) < lengths.unsqueeze(1)
    x = randn(6, 4, 3, seed=1)
    x[~mask] = float("nan")
    out = layer(x, step=0, mask=mask)
    for t in range(3):
        expected = single(x[mask[:, t], t], step=t)
        torch.testing.assert_close(out[mask[:, t], t], expected)
    assert (out[~mask] == 0).all()
    torch.testing.assert_close(layer.running_var[:3], single.running_var[:3])
    assert torch.equal(layer.num_batches_tracked[:3], single.num_batches_tracked[:3])
    if training:  # one value a channel has no variance, and moves nothing
        assert (out[0, 3] == layer.bias).all()
        assert layer.num_batches_tracked[3] == 1


@pytest.mark.parametrize("training", [True, False])
def test_what_belongs_to_steps_together_must_fit_all_of_them(training) -> None:
    layer, x = bn.RecurrentBatchNorm1d(3, 4).train(training), randn(6, 2, 3)
    one = torch.arange(6).unsqueeze(1) < 4
    torch.testing.assert_close(layer(x, step=0, mask=one), layer(x, step=0, mask=one.expand(6, 2)))
    with pytest.raises(ArgumentError, match=r"mask must broadcast to .*\(6, 2\), got \(6, 3\)"):
        layer(x, step=0, mask=torch.ones(6, 3, dtype=torch.bool))
    with pytest.raises(ShapeError, match=r"residual should have the input's shape \(6, 2, 3\)"):
        layer(x, randn(6, 3, 3), step=0)
    with pytest.raises(ShapeError, match="should contain 5 elements not 3"):
        layer(randn(6, 2, 5), step=0)
    assert layer(randn(6, 0, 3), step=0).shape == (6, 0, 3)


def test_the_weight_starts_at_a_tenth() -> None:
    layer = bn.RecurrentBatchNorm1d(3, 2)
    assert torch.equal(layer.weight, torch.full((3,), 0.1))
    assert torch.equal(layer.bias, torch.zeros(3))
    nn.init.ones_(layer.weight), layer(randn(4, 3), step=1)
    layer.reset_parameters()
    assert torch.equal(layer.weight, torch.full((3,), 0.1))
    assert torch.equal(layer.running_mean, torch.zeros(2, 3))


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_counts_once(joined, reentrant) -> None:
    layer, x = bn.RecurrentBatchNorm1d(3, 2), randn(4, 2, 3).requires_grad_()
    run = (lambda v: layer(v, step=0)) if joined else (lambda v: layer(v[:, 0], step=0))
    checkpoint(run, x, use_reentrant=reentrant).square().sum().backward()
    assert layer.num_batches_tracked.tolist() == ([1, 1] if joined else [1, 0])
    with bn.no_stats_update(layer):
        run(x)
    assert layer.num_batches_tracked.tolist() == ([1, 1] if joined else [1, 0])


def test_gradients_of_both_orders() -> None:
    layer = bn.RecurrentBatchNorm1d(2, 2).double()
    x = randn(3, 3, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: layer(t, step=0, act="silu"), (x,))
    assert torch.autograd.gradgradcheck(lambda t: layer(t, step=0, act="silu"), (x,))


def test_compiled_in_one_graph() -> None:
    eager, compiled = bn.RecurrentBatchNorm1d(3, 3), bn.RecurrentBatchNorm1d(3, 3)
    run = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for step in (0, 1, 2):
        x = randn(4, 3, seed=step)
        torch.testing.assert_close(run(x, step=step), eager(x, step=step))
    x = randn(4, 5, 3)
    torch.testing.assert_close(run(x, step=0), eager(x, step=0))
    assert compiled.num_batches_tracked.tolist() == [2, 2, 2]
    torch.testing.assert_close(compiled.running_var, eager.running_var)


LAYER, X = bn.RecurrentBatchNorm1d(3, 2), randn(4, 3)


@pytest.mark.parametrize(
    ("error", "said", "call"),
    [
        (TypeError, "missing 1 required keyword-only argument: 'step'", lambda: LAYER(X)),
        (ArgumentError, "step must be at least 0, got -1", lambda: LAYER(X, step=-1)),
        (ArgumentTypeError, "step must be an int, got float", lambda: LAYER(X, step=1.0)),
        (ArgumentError, "max_steps must be at least 1, got 0", lambda: bn.RecurrentBatchNorm1d(3, 0)),
        (DimensionError, "expected 2D or 3D input", lambda: LAYER(X.view(4, 3, 1, 1), step=0)),
        (BatchTooSmallError, "more than 1 value", lambda: LAYER(X[:1], step=0)),
        (BatchTooSmallError, "more than 1 value", lambda: LAYER(X[:1, None], step=0)),
    ],
)
def test_misuse_is_named(error, said, call) -> None:
    with pytest.raises(error, match=said):
        call()


def test_it_stands_outside_torchs_batch_norms_and_says_how_many_steps() -> None:
    assert not isinstance(LAYER, nn.modules.batchnorm._BatchNorm)
    assert repr(LAYER).endswith("max_steps=2)")
