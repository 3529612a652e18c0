"""DomainBatchNorm: each domain as a batch norm of its own, chosen by argument or by block."""

import threading

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

import batchnorm as bn
from batchnorm.errors import ArgumentError, ArgumentTypeError, BatchTooSmallError, DimensionError

RANKS = [
    (bn.DomainBatchNorm1d, nn.BatchNorm1d, (6, 3)),
    (bn.DomainBatchNorm1d, nn.BatchNorm1d, (6, 3, 5)),
    (bn.DomainBatchNorm2d, nn.BatchNorm2d, (6, 3, 5, 4)),
    (bn.DomainBatchNorm3d, nn.BatchNorm3d, (6, 3, 2, 5, 4)),
]
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kind", "torchs", "shape"), RANKS)
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_each_domain_is_a_batch_norm_of_its_own(kind, torchs, shape, momentum, backend) -> None:
    layer = kind(3, 2, momentum=momentum).double()
    theirs = [torchs(3, momentum=momentum).double() for _ in range(2)]
    with bn.backend(backend):
        for step, domain in enumerate((0, 1, 1, 0, 1)):
            x = (randn(*shape, seed=step).double() + 3 * domain).requires_grad_()
            y = x.detach().clone().requires_grad_()
            out, expected = layer(x, domain=domain), theirs[domain](y)
            torch.testing.assert_close(out, expected)
            grad = randn(*shape, seed=step + 9).double()
            layer.zero_grad(), theirs[domain].zero_grad()
            out.backward(grad), expected.backward(grad)
            torch.testing.assert_close(x.grad, y.grad)
            torch.testing.assert_close(layer.weight.grad, theirs[domain].weight.grad)
        for name in STATISTICS:
            for domain in (0, 1):
                torch.testing.assert_close(getattr(layer, name)[domain], getattr(theirs[domain], name))
        layer.eval()
        for domain in (0, 1):
            torch.testing.assert_close(layer(x, domain=domain), theirs[domain].eval()(x))


def counts(layer: nn.Module) -> list[int]:
    return layer.num_batches_tracked.tolist()


def test_the_block_selects_for_a_model_nests_and_the_argument_wins() -> None:
    layer, x = bn.DomainBatchNorm1d(3, 3), randn(4, 3)
    model = nn.Sequential(nn.Linear(3, 3), layer)
    with bn.domain(2):
        model(x)
        with bn.domain(1):
            model(x)
        layer(x, domain=0)
        model(x)
    assert counts(layer) == [1, 1, 2]
    with pytest.raises(RuntimeError, match="stopped"), bn.domain(1):
        raise RuntimeError("stopped")
    with pytest.raises(ArgumentError, match="none was chosen"):
        model(x)


def test_the_block_holds_in_its_thread() -> None:
    layer, x, raised = bn.DomainBatchNorm1d(3, 2), randn(4, 3), []

    def elsewhere() -> None:
        try:
            layer(x)
        except ArgumentError as error:
            raised.append(str(error))

    with bn.domain(1):
        other = threading.Thread(target=elsewhere)
        other.start(), other.join()
    assert len(raised) == 1
    assert counts(layer) == [0, 0]


def test_one_domain_needs_no_choice() -> None:
    layer, plain, x = bn.DomainBatchNorm1d(3, 1), bn.BatchNorm1d(3), randn(4, 3)
    assert torch.equal(layer(x), plain(x))
    assert torch.equal(layer.running_var[0], plain.running_var)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_counts_once_and_repeats_outside_of_the_block(reentrant) -> None:
    layer, x = bn.DomainBatchNorm1d(3, 2), randn(4, 3).requires_grad_()
    with bn.domain(1):
        y = checkpoint(layer, x, use_reentrant=reentrant)
    y.square().sum().backward()
    assert counts(layer) == [0, 1]
    other, z = bn.DomainBatchNorm1d(3, 2), randn(4, 3).requires_grad_()
    other(z, domain=1).square().sum().backward()
    torch.testing.assert_close(x.grad, z.grad)


def test_no_stats_update_and_bad_batches() -> None:
    layer, x = bn.DomainBatchNorm1d(3, 2), randn(4, 3)
    with bn.no_stats_update(layer):
        layer(x, domain=1)
    assert counts(layer) == [0, 0]
    x[0, 1] = float("nan")
    layer(x, domain=1)
    assert torch.isfinite(layer.running_mean).all()
    assert layer.running_mean[1, 1] == 0
    assert (layer.running_mean[0] == 0).all()


@pytest.mark.parametrize("assign", [True, False])
def test_a_batch_norms_checkpoint_fills_every_domain(assign) -> None:
    plain = bn.BatchNorm1d(3)
    plain(randn(4, 3))
    layer = bn.DomainBatchNorm1d(3, 2)
    layer.load_state_dict(plain.state_dict(), assign=assign)
    for name in STATISTICS:
        for domain in (0, 1):
            assert torch.equal(getattr(layer, name)[domain], getattr(plain, name))
    before = plain.running_mean.clone()
    layer(randn(4, 3, seed=1), domain=1)
    assert torch.equal(layer.running_mean[0], before)
    assert torch.equal(plain.running_mean, before)  # the checkpoint is not written to either
    again = bn.DomainBatchNorm1d(3, 2)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.running_mean, layer.running_mean)
    with pytest.raises(RuntimeError, match="size mismatch for running_mean"):
        bn.DomainBatchNorm1d(3, 3).load_state_dict(layer.state_dict())


def test_statistics_stay_wide() -> None:
    layer = bn.DomainBatchNorm1d(3, 2, dtype=torch.bfloat16).half()
    assert layer.weight.dtype == torch.float16
    assert layer.running_mean.dtype == layer.running_var.dtype == torch.float32
    assert layer.running_var.shape == (2, 3)


def test_residual_act_lengths_and_packed_sequences() -> None:
    layer, plain = bn.DomainBatchNorm1d(3, 2), bn.BatchNorm1d(3)
    x, lengths = randn(2, 3, 5), torch.tensor([5, 2])
    out = layer(x, x, domain=1, act="relu", lengths=lengths)
    assert torch.equal(out, plain(x, x, act="relu", lengths=lengths))
    packed = pack_sequence([randn(4, 3), randn(2, 3)])
    assert torch.equal(layer(packed, domain=1).data, plain(packed).data)
    assert torch.equal(layer.running_mean[1], plain.running_mean)


def test_compiled_in_one_graph_for_each_domain() -> None:
    eager, compiled = bn.DomainBatchNorm1d(3, 3), bn.DomainBatchNorm1d(3, 3)
    run = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for domain in (0, 2, 1):
        x = randn(4, 3, seed=domain)
        torch.testing.assert_close(run(x, domain=domain), eager(x, domain=domain))
        with bn.domain(domain):
            torch.testing.assert_close(run(x), eager(x))
    torch.testing.assert_close(compiled.running_mean, eager.running_mean)
    assert counts(compiled) == [2, 2, 2]


def test_fx_keeps_the_argument() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = bn.DomainBatchNorm1d(3, 2)

        def forward(self, x):
            return self.bn(x, domain=1)

    model, x = Model(), randn(4, 3)
    traced = torch.fx.symbolic_trace(model)
    assert [node.kwargs for node in traced.graph.nodes if node.op == "call_module"] == [{"domain": 1}]
    torch.testing.assert_close(traced(x), model(x))
    assert counts(model.bn) == [0, 2]


@pytest.mark.parametrize(
    ("error", "said", "call"),
    [
        (ArgumentError, r"domain must be from 0 to 1, got 2", lambda: LAYER(X, domain=2)),
        (ArgumentError, "domain must be at least 0, got -1", lambda: LAYER(X, domain=-1)),
        (ArgumentTypeError, "domain must be an int, got bool", lambda: LAYER(X, domain=True)),
        (ArgumentTypeError, "domain must be an int, got str", lambda: LAYER(X, domain="a")),
        (
            ArgumentError,
            r"layer\(x, domain=0\), or the model inside `with bn.domain\(0\):`",
            lambda: LAYER(X),
        ),
        (ArgumentError, "num_domains must be at least 1, got 0", lambda: bn.DomainBatchNorm1d(3, 0)),
        (ArgumentTypeError, "num_domains must be an int", lambda: bn.DomainBatchNorm1d(3, 2.0)),
        (DimensionError, "expected 4D input", lambda: bn.DomainBatchNorm2d(3, 2)(X, domain=0)),
        (BatchTooSmallError, "more than 1 value", lambda: LAYER(X[:1], domain=0)),
    ],
)
def test_misuse_is_named(error, said, call) -> None:
    with pytest.raises(error, match=said):
        call()


LAYER, X = bn.DomainBatchNorm1d(3, 2), randn(4, 3)


def test_it_stands_outside_torchs_batch_norms_and_says_how_many_domains() -> None:
    assert not isinstance(LAYER, nn.modules.batchnorm._BatchNorm)
    assert repr(LAYER).endswith("num_domains=2)")
