"""Where a layer meets other machinery: checkpointing policies, hooks under fx, views, modes, lazy loads."""

import functools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import batchnorm as bn
from batchnorm.errors import (
    ActivationError,
    ArgumentError,
    ArgumentTypeError,
    BatchTooSmallError,
    DtypeError,
    ShapeError,
)

A = torch.ops.aten


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LARGE = [
    (bn.BatchNorm2d, (1, 3, 300, 300), None),
    (bn.BatchNorm2d, (1, 3, 300, 300), torch.ones(300, 300, dtype=torch.bool)),
    (bn.BatchNorm1d, (1, 3, 100_000), None),
    (bn.ChannelsLastBatchNorm, (1, 100_000, 3), None),
    (bn.BatchNorm1d, (2, 200_000), None),
]


@pytest.mark.parametrize(("kind", "shape", "mask"), LARGE, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_one_large_image_or_sequence(kind, shape, mask, training) -> None:
    channel_dim = -1 if kind is bn.ChannelsLastBatchNorm else 1
    layer = kind(shape[channel_dim]).train(training)
    x = randn(*shape).requires_grad_()
    y = layer(x, mask=mask)
    running = (None, None) if training else (layer.running_mean.double(), layer.running_var.double())
    theirs = nn.functional.batch_norm(
        x.detach().double().movedim(channel_dim, 1), *running, training=training
    )
    torch.testing.assert_close(y.movedim(channel_dim, 1), theirs.float(), rtol=1e-6, atol=1e-6)
    y.sum().backward()
    assert torch.isfinite(x.grad).all()


def everything(ctx, op, *args, **kwargs):
    return CheckpointPolicy.PREFER_SAVE


POLICIES = {
    "add": [A.add.Tensor],
    "mul": [A.mul.Tensor],
    "casts": [A._to_copy.default],
    "where": [A.where.self],
    "everything": everything,
}


@pytest.mark.parametrize("policy", POLICIES)
def test_selective_checkpointing_whatever_it_saves(policy) -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(nn.Sequential(bn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), bn.BatchNorm2d(3), nn.SiLU()))
    x, y = randn(4, 3, 5, 5).requires_grad_(), randn(4, 3, 5, 5).requires_grad_()
    contexts = functools.partial(create_selective_checkpoint_contexts, POLICIES[policy])
    models[0](x).square().sum().backward()
    checkpoint(models[1], y, use_reentrant=False, context_fn=contexts).square().sum().backward()
    torch.testing.assert_close(y.grad, x.grad)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-4)
    assert models[1][0].num_batches_tracked == models[1][2].num_batches_tracked == 1
    torch.testing.assert_close(models[1][2].running_var, models[0][2].running_var)


def test_hooks_run_once_in_a_traced_model() -> None:
    model = nn.Sequential(bn.BatchNorm2d(3)).eval()
    seen = []
    model[0].register_forward_hook(lambda m, args, out: (seen.append(type(out)), out * 2)[1])
    model[0].register_forward_pre_hook(lambda m, args: (args[0] + 1,))
    x = randn(4, 3, 5, 5)
    traced = torch.fx.symbolic_trace(model)
    assert seen == []
    torch.testing.assert_close(traced(x), model(x))
    assert seen == [torch.Tensor, torch.Tensor]


class Inline(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = bn.BatchNorm2d(3)

    def forward(self, x):
        return self.bn(x, act=nn.LeakyReLU(0.3))


def test_an_activation_built_in_forward_is_traced() -> None:
    model, x = Inline().eval(), randn(4, 3, 5, 5)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


def test_the_pure_function_is_one_node_too() -> None:
    def net(x, mean, var):
        return bn.functional.batch_norm_with_stats(x, mean, var, training=True)[0]

    args = randn(4, 3), torch.zeros(3), torch.ones(3)
    assert torch.equal(torch.fx.symbolic_trace(net)(*args), net(*args))


def test_a_training_step_between_an_evaluating_forward_and_its_backward() -> None:
    # torch's own backward reads the running statistics after they moved, and gives another gradient.
    grads = []
    for together in (True, False):
        layer, x = bn.BatchNorm2d(3), randn(4, 3, 5, 5).requires_grad_()
        evaluated = layer.eval()(x).square().sum()
        if together:
            (evaluated + layer.train()(x).pow(3).sum()).backward()
        else:
            evaluated.backward()
            layer.train()(x).pow(3).sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


def test_a_bias_changed_before_backward_does_not_matter_without_an_activation() -> None:
    layer, x = bn.BatchNorm2d(3), randn(4, 3, 5, 5).requires_grad_()
    y = layer(x)
    with torch.no_grad():
        layer.bias.add_(1)
    y.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("masked", [False, True])
def test_second_derivatives_through_a_residual_without_activation(masked) -> None:
    mask = torch.rand(4, 2, 2, generator=torch.Generator().manual_seed(1)) < 0.6 if masked else None
    x, r = randn(4, 3, 2, 2).double().requires_grad_(), randn(4, 3, 2, 2, seed=1).double().requires_grad_()
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def call(x, r, bias):
        return bn.functional.batch_norm(x, None, None, None, bias, True, residual=r, mask=mask)

    assert torch.autograd.gradgradcheck(call, (x, r, bias))
    # The weights reach invalid positions too, where the gradient must stop.
    weights = randn(4, 3, 2, 2, seed=2).double()
    for arguments, wanted in (((x, r, bias), (x, r, bias)), ((x.detach(), r, bias.detach()), (r,))):
        plain, again = (
            torch.autograd.grad(((call(*arguments) + 1).pow(3) * weights).sum(), wanted, create_graph=create)
            for create in (False, True)
        )
        torch.testing.assert_close(again, plain)


@pytest.mark.parametrize("masked", [False, True])
def test_the_output_can_be_viewed_as_torchs_can(masked) -> None:
    x = randn(4, 5, 3).transpose(1, 2)
    mask = torch.ones(4, 5, dtype=torch.bool) if masked else None
    for mode in (True, False):
        assert bn.BatchNorm1d(3).train(mode)(x, mask=mask).view(4, -1).shape == (4, 15)
    permuted = randn(4, 5, 6, 3).permute(0, 3, 2, 1)
    assert bn.BatchNorm2d(3)(permuted).stride() == nn.BatchNorm2d(3)(permuted).stride()


@pytest.mark.parametrize("how", ["mask", "empty"])
def test_a_batch_without_statistics_has_no_weight_in_a_cumulative_average(how) -> None:
    layer = bn.BatchNorm1d(3, momentum=None)
    if how == "mask":
        layer(randn(4, 3, 5), mask=torch.zeros(4, 5, dtype=torch.bool))
    else:
        layer(randn(0, 3, 5))
    x = randn(4, 3, 5) + 5
    layer(x)
    assert layer.num_batches_tracked == 1
    torch.testing.assert_close(layer.running_mean, x.mean((0, 2)))


@pytest.mark.parametrize("assign", [False, True])
def test_a_lazy_half_precision_layer_loads_statistics_exactly(assign) -> None:
    full = bn.BatchNorm2d(3, dtype=torch.bfloat16)
    full(randn(4, 3, 5, 5).bfloat16())
    lazy = bn.LazyBatchNorm2d(dtype=torch.bfloat16)
    lazy.load_state_dict(full.state_dict(), assign=assign)
    assert torch.equal(lazy.running_mean, full.running_mean)
    assert lazy.running_var.dtype == torch.float32
    lazy(randn(4, 3, 5, 5).bfloat16())
    assert lazy.num_features == 3
    assert lazy.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("dims", [0, (None, None, 0)])
def test_per_sample_gradients_name_the_remedy(dims) -> None:
    layer = bn.BatchNorm1d(3)
    parameters, buffers = dict(layer.named_parameters()), dict(layer.named_buffers())

    def loss(parameters, buffers, x):
        return torch.func.functional_call(layer, {**parameters, **buffers}, (x,)).sum()

    with pytest.raises(RuntimeError, match="batch_norm_with_stats"):
        torch.func.vmap(torch.func.grad(loss), in_dims=(None, None, 0))(parameters, buffers, randn(2, 5, 3))
    assert layer.num_batches_tracked == 0


def test_a_graph_with_symbolic_sizes_holds_for_other_sizes() -> None:
    make_fx = torch.fx.experimental.proxy_tensor.make_fx

    def call(x):
        return bn.functional.batch_norm(x, None, None, training=True)

    graph = make_fx(call, tracing_mode="symbolic")(randn(8, 3, 128, 128))
    other = randn(16, 3, 128, 128)
    torch.testing.assert_close(graph(other), call(other), rtol=1e-5, atol=1e-5)
    exported = torch.export.export(
        nn.Sequential(bn.BatchNorm2d(3)),
        (randn(4, 3, 5, 5),),
        dynamic_shapes=({0: torch.export.Dim.AUTO},),
        strict=False,
    )
    batch = randn(16, 3, 5, 5)
    torch.testing.assert_close(exported.module()(batch), call(batch), rtol=1e-5, atol=1e-5)


X = randn(4, 3, 5)


def packed(*lengths: int):
    return pack_padded_sequence(randn(len(lengths), max(lengths), 3), torch.tensor(lengths), batch_first=True)


def functional(x, *args, **kwargs):
    return lambda: bn.functional.batch_norm(x, *args, **kwargs)


def bn_of(x=X, training=True, **options):
    return lambda: bn.BatchNorm1d(3, **options).train(training)(x)


MISFITS = [
    (ArgumentError, "packed as the input", lambda: bn.BatchNorm1d(3)(packed(4, 2, 2), packed(3, 3, 2))),
    (ArgumentError, "from 0 to 5, got 6", lambda: bn.BatchNorm1d(3)(X, lengths=[5, 6, 1, 2])),
    (ArgumentError, "from 0 to 5, got -1", lambda: bn.BatchNorm1d(3)(X, lengths=[5, -1, 1, 2])),
    (ArgumentTypeError, "bool Tensor, not list", lambda: bn.BatchNorm1d(3)(X, mask=[[True]])),
    (ArgumentTypeError, "residual must be a Tensor, not float", lambda: bn.BatchNorm1d(3)(X, 1.0)),
    (DtypeError, "residual must be one of", lambda: bn.BatchNorm1d(3)(X, X.long())),
    (DtypeError, "residual must be one of", lambda: bn.BatchNorm1d(3)(X, X.cfloat())),
    (TypeError, "must be float, not NoneType", functional(X, None, None, training=True, momentum=None)),
    (DtypeError, "running_mean must be floating", functional(X, torch.zeros(3).long(), torch.ones(3))),
    (ShapeError, r"have the shape \(3,\)", functional(X, torch.zeros(3, 1), torch.ones(3, 1), training=True)),
    (
        DtypeError,
        "one type",
        functional(X.bfloat16(), None, None, torch.ones(3), torch.ones(3).bfloat16(), True),
    ),
    (BatchTooSmallError, "Expected more than 1", functional(torch.zeros(1, 0), None, None, training=True)),
    (ArgumentError, "eps must be positive", functional(torch.zeros(0), None, None, training=True, eps=-1.0)),
    (ArgumentError, "positive during training, but got nan", bn_of(eps=float("nan"))),
    (ArgumentError, "non-negative, but got nan", bn_of(training=False, eps=float("nan"))),
    (ArgumentTypeError, r"'eps' \(position 8\) must be float, not str", bn_of(eps="a")),
    (ArgumentTypeError, r"'momentum' \(position 7\) must be float, not str", bn_of(momentum="a")),
    (ArgumentTypeError, "must be float, not list", bn_of(training=False, momentum=[0.1])),
    (ArgumentTypeError, "must be float, not Tensor", bn_of(momentum=torch.ones(2))),
    (ArgumentError, "input must be a dense tensor, got layout torch.sparse_coo", bn_of(X.to_sparse())),
    (ArgumentError, "residual must be a dense tensor", lambda: bn.BatchNorm1d(3)(X, X.to_sparse())),
]


@pytest.mark.parametrize(("error", "said", "call"), MISFITS, ids=[said for _, said, _ in MISFITS])
def test_arguments_that_do_not_fit(error, said, call) -> None:
    with pytest.raises(error, match=said):
        call()


def test_lengths_may_be_a_list() -> None:
    lengths = [5, 3, 1, 2]
    first, second = bn.BatchNorm1d(3), bn.BatchNorm1d(3)
    assert torch.equal(first(X, lengths=lengths), second(X, lengths=torch.tensor(lengths)))


def test_an_activation_with_hooks_is_refused() -> None:
    act = nn.ReLU()
    act.register_forward_hook(lambda *_: None)
    with pytest.raises(ActivationError, match="has hooks"):
        bn.BatchNorm1d(3)(X, act=act)


def test_a_weight_of_another_rank_is_flattened_as_in_torch() -> None:
    weight = torch.rand(3, 1, requires_grad=True)
    out = bn.functional.batch_norm(X, None, None, weight, None, True)
    torch.testing.assert_close(out, nn.functional.batch_norm(X, None, None, weight.reshape(-1), None, True))
    out.square().sum().backward()
    assert weight.grad.shape == (3, 1)


@pytest.mark.parametrize("momentum", [1, True, torch.tensor(0.25)], ids=repr)
def test_numbers_of_other_types_are_taken_as_in_torch(momentum) -> None:
    ours, theirs = bn.BatchNorm1d(3, eps=1, momentum=momentum), nn.BatchNorm1d(3, eps=1, momentum=momentum)
    torch.testing.assert_close(ours(X), theirs(X))
    torch.testing.assert_close(ours.running_var, theirs.running_var)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("training", [True, False])
def test_a_negated_view_is_read_with_its_sign(training, backend) -> None:
    x = torch.complex(X, X).conj().imag.squeeze()
    dense = X._neg_view()  # contiguous, which the imaginary part of a conjugate is not
    for given, added in ((x, None), (dense, None), (X, dense)):
        ours, theirs = bn.BatchNorm1d(3).train(training), nn.BatchNorm1d(3).train(training)
        with bn.backend(backend):
            found = ours(given, added)
        expected = theirs(given) if added is None else theirs(given) + added
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)


def test_a_negated_gradient_and_negated_buffers_are_read_with_their_sign() -> None:
    ours, theirs = bn.BatchNorm1d(3), nn.BatchNorm1d(3)
    grads = []
    for layer in (ours, theirs):
        layer.running_mean = torch.ones(3)._neg_view() if layer is ours else -torch.ones(3)
        x = X.clone().requires_grad_()
        layer(x).backward(randn(4, 3, 5)._neg_view() if layer is ours else -randn(4, 3, 5))
        grads.append(x.grad)
    torch.testing.assert_close(*grads)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.eval()(X), theirs.eval()(X))
