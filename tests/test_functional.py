"""The functions, beyond what the contract tests hold: purity, transforms, dtypes, recomputation."""

import pytest
import torch
from torch.nn import functional as F

import batchnorm as bn
from batchnorm.errors import ArgumentError, DimensionError, DtypeError, TransformError

X = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def running() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(3), torch.ones(3)


def test_with_stats_is_pure_and_equals_the_updating_form() -> None:
    mean, var = running()
    pure = bn.functional.batch_norm_with_stats(X, mean, var, training=True, momentum=0.3, act="relu")
    assert torch.equal(mean, torch.zeros(3))
    assert torch.equal(var, torch.ones(3))
    output = bn.functional.batch_norm(X, mean, var, training=True, momentum=0.3, act="relu")
    for mine, expected in zip(pure, (output, mean, var), strict=True):
        assert torch.equal(mine, expected)


def test_with_stats_in_evaluation_gives_back_the_given_ones() -> None:
    mean, var = running()
    output, new_mean, new_var = bn.functional.batch_norm_with_stats(X, mean, var)
    assert new_mean is mean
    assert new_var is var
    torch.testing.assert_close(output, F.batch_norm(X, mean, var))


def test_with_stats_skips_bad_channels_and_empty_batches() -> None:
    bad = X.clone()
    bad[0, 1, 0, 0] = torch.nan
    _, mean, var = bn.functional.batch_norm_with_stats(bad, *running(), training=True)
    assert mean[1] == 0
    assert var[1] == 1
    assert mean[0] != 0
    _, mean, var = bn.functional.batch_norm_with_stats(X[:0], *running(), training=True)
    assert torch.equal(mean, torch.zeros(3))
    assert torch.equal(var, torch.ones(3))


def test_vmap_of_with_stats_equals_a_loop() -> None:
    batches = torch.stack([X, X * 2 + 1])
    means, variances = torch.randn(2, 3), torch.rand(2, 3) + 0.5

    def call(x, mean, var):
        return bn.functional.batch_norm_with_stats(x, mean, var, training=True)

    mapped = torch.func.vmap(call)(batches, means, variances)
    for index in range(2):
        for whole, one in zip(mapped, call(batches[index], means[index], variances[index]), strict=True):
            torch.testing.assert_close(whole[index], one)


def test_jacrev_of_with_stats_equals_autograd() -> None:
    x = X[:3, :, :1, :2].double()

    def call(x):
        stats = torch.zeros(3).double(), torch.ones(3).double()
        return bn.functional.batch_norm_with_stats(x, *stats, training=True, act="silu")[0]

    torch.testing.assert_close(torch.func.jacrev(call)(x), torch.autograd.functional.jacobian(call, x))


@pytest.mark.parametrize("transform", [torch.func.grad, lambda f: torch.func.vmap(f)], ids=["grad", "vmap"])
def test_training_under_a_transform_that_did_not_get_the_buffers(transform) -> None:
    layer = bn.BatchNorm1d(3)
    x = torch.randn(5, 3) if transform is torch.func.grad else torch.randn(2, 5, 3)
    with pytest.raises(TransformError, match="functional_call"):
        transform(lambda x: layer(x).sum())(x)
    assert layer.num_batches_tracked == 0
    layer.eval()
    transform(lambda x: layer(x).sum())(x)


def test_grad_through_functional_call_with_buffers() -> None:
    layer = bn.BatchNorm1d(3)
    buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}

    def loss(parameters, buffers, x):
        return torch.func.functional_call(layer, {**parameters, **buffers}, (x,)).square().sum()

    parameters = dict(layer.named_parameters())
    x = torch.randn(5, 3)
    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    stacked = {name: torch.stack([buffer, buffer]) for name, buffer in buffers.items()}
    grads = per_sample(parameters, stacked, torch.stack([x, x + 1]))
    assert grads["weight"].shape == (2, 3)
    assert layer.num_batches_tracked == 0


def test_an_ensemble_by_vmap_updates_its_own_buffers() -> None:
    models = [bn.BatchNorm1d(3) for _ in range(2)]
    parameters, buffers = torch.func.stack_module_state(models)

    def call(parameters, buffers, x):
        return torch.func.functional_call(models[0], (parameters, buffers), (x,))

    x = torch.randn(2, 5, 3)
    out = torch.func.vmap(call)(parameters, buffers, x)
    for index in range(2):
        torch.testing.assert_close(out[index], models[index](x[index]))
        torch.testing.assert_close(buffers["running_var"][index], models[index].running_var)


def test_running_statistics_carry_no_gradient() -> None:
    x = X.clone().requires_grad_()
    mean, var = running()
    out, new_mean, new_var = bn.functional.batch_norm_with_stats(x, mean, var, training=True)
    assert out.requires_grad
    assert not new_mean.requires_grad
    assert not new_var.requires_grad


@pytest.mark.parametrize("momentum", [0.0, 1.0, -1.2, 2.0])
def test_momentum_is_taken_as_torch_takes_it(momentum) -> None:
    mine, theirs = running(), running()
    bn.functional.batch_norm(X, *mine, training=True, momentum=momentum)
    F.batch_norm(X, *theirs, training=True, momentum=momentum)
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("input", "parameter", "accepted"),
    [
        (torch.bfloat16, torch.float32, True),
        (torch.float16, torch.float32, True),
        (torch.bfloat16, torch.bfloat16, True),
        (torch.float16, torch.bfloat16, False),
        (torch.float32, torch.float64, False),
        (torch.float64, torch.float32, False),
        (torch.float32, torch.bfloat16, False),
    ],
    ids=str,
)
def test_dtypes_that_go_together(input, parameter, accepted) -> None:
    weight = torch.ones(3, dtype=parameter)
    if accepted:
        assert bn.functional.batch_norm(X.to(input), *running(), weight, weight).dtype == input
    else:
        with pytest.raises(DtypeError, match="mixed dtype"):
            bn.functional.batch_norm(X.to(input), *running(), weight, weight)


@pytest.mark.parametrize("channel_dim", [-5, 4, 7])
def test_a_channel_dimension_outside_the_input(channel_dim) -> None:
    with pytest.raises(DimensionError, match="channel_dim"):
        bn.functional.batch_norm(X, *running(), channel_dim=channel_dim)


def test_an_input_without_channels_is_refused_with_torchs_type() -> None:
    for function in (F.batch_norm, bn.functional.batch_norm):
        with pytest.raises(RuntimeError):
            function(torch.zeros(3), *running(), training=True)


@pytest.mark.parametrize("channel_dim", [0, 1, 2, -1, -4])
def test_any_dimension_can_hold_the_channels(channel_dim) -> None:
    weight, bias = torch.rand(3), torch.rand(3)
    moved = X.movedim(1, channel_dim).contiguous()
    actual = bn.functional.batch_norm(moved, None, None, weight, bias, True, channel_dim=channel_dim)
    expected = F.batch_norm(X, None, None, weight, bias, True).movedim(1, channel_dim)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_a_subclass_of_tensor_keeps_its_class() -> None:
    class Marked(torch.Tensor):
        pass

    out = bn.functional.batch_norm(X.as_subclass(Marked), *running(), training=True)
    assert type(out) is Marked
    torch.testing.assert_close(out.as_subclass(torch.Tensor), F.batch_norm(X, *running(), training=True))


def test_inference_mode() -> None:
    with torch.inference_mode():
        out = bn.functional.batch_norm(X, *running(), act="relu")
    torch.testing.assert_close(out, F.relu(F.batch_norm(X, *running())))


def test_an_input_changed_in_place_before_backward_is_noticed() -> None:
    x = X.clone().requires_grad_()
    y = x * 1
    out = bn.functional.batch_norm(y, None, None, training=True)
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_act_is_resolved_before_anything_moves() -> None:
    mean, var = running()
    with pytest.raises(ArgumentError, match="'swish'"):
        bn.functional.batch_norm(X, mean, var, training=True, act="swish")
    assert torch.equal(mean, torch.zeros(3))
