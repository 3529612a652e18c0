"""Batch renormalization against the paper's algorithm in plain float64, and what users and tools do with the layers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.rnn import pack_padded_sequence

import batchnorm as bn
from batchnorm.errors import ArgumentError, BatchTooSmallError, DimensionError

KINDS = {2: bn.BatchRenorm1d, 3: bn.BatchRenorm1d, 4: bn.BatchRenorm2d, 5: bn.BatchRenorm3d}
SHAPES = [(6, 3), (6, 3, 4), (4, 3, 2, 3), (3, 3, 2, 1, 3)]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(shape, **options):
    layer = KINDS[len(shape)](
        shape[1], **{"dtype": torch.float64, "r_max": 1.5, "d_max": 0.5, "warmup": 0, **options}
    )
    with torch.no_grad():
        if layer.affine:
            layer.weight.copy_(1 + 0.3 * randn(shape[1], seed=5))
            layer.bias.copy_(0.3 * randn(shape[1], seed=6))
        layer.running_mean.copy_(torch.tensor([0.1, -2.0, 0.5]))
        layer.running_std.copy_(torch.tensor([0.9, 0.4, 3.0]))
    return layer


def along(values, x):
    return values.reshape(-1, *[1] * (x.dim() - 2))


def algorithm(x, weight, bias, running_mean, running_std, r_max, d_max, rate, eps=1e-5):
    """Algorithm 1 of Ioffe 2017, line by line."""
    dims = [dim for dim in range(x.dim()) if dim != 1]
    mu = x.mean(dims)
    sigma = (eps + (x - along(mu, x)).square().mean(dims)).sqrt()
    r = (sigma.detach() / running_std).clamp(1 / r_max, r_max)
    d = ((mu.detach() - running_mean) / running_std).clamp(-d_max, d_max)
    x_hat = (x - along(mu, x)) / along(sigma, x) * along(r, x) + along(d, x)
    y = along(weight, x) * x_hat + along(bias, x)
    return (
        y,
        running_mean + rate * (mu.detach() - running_mean),
        running_std + rate * (sigma.detach() - running_std),
    )


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_papers_algorithm(shape, layout) -> None:
    x = randn(*shape) * 2 + 1
    if layout == "channels_last" and len(shape) > 3:
        x = x.contiguous(memory_format=torch.channels_last if len(shape) == 4 else torch.channels_last_3d)
    layer, x = made(shape, momentum=0.2), x.requires_grad_()
    leaves = [x, layer.weight, layer.bias]
    before = layer.running_mean.clone(), layer.running_std.clone()
    expected, mean, std = algorithm(x, layer.weight, layer.bias, *before, 1.5, 0.5, 0.2)
    actual = layer(x)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    assert actual.stride() == bn.functional.batch_norm(x, None, None, training=True).stride()
    grad = randn(*shape, seed=3)
    for mine, theirs in zip(
        torch.autograd.grad(actual, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(layer.running_mean, mean, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(layer.running_std, std, rtol=1e-13, atol=1e-13)
    assert layer.num_batches_tracked == 1
    evaluated = along(layer.weight, x) * (x - along(mean, x)) / along(std, x) + along(layer.bias, x)
    torch.testing.assert_close(layer.eval()(x), evaluated, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_without_room_for_a_correction_it_is_batch_norm_to_the_bit(shape, dtype) -> None:
    plain = {2: bn.BatchNorm1d, 3: bn.BatchNorm1d, 4: bn.BatchNorm2d, 5: bn.BatchNorm3d}[len(shape)]
    renorm, plain = made(shape, r_max=1, d_max=0, dtype=dtype), plain(3, dtype=dtype)
    with torch.no_grad():
        plain.weight.copy_(renorm.weight), plain.bias.copy_(renorm.bias)
    x, y = (randn(*shape).to(dtype).requires_grad_() for _ in range(2))
    grad = randn(*shape, seed=3).to(dtype)
    first, second = renorm(x, act="relu"), plain(y, act="relu")
    assert torch.equal(first, second)
    first.backward(grad), second.backward(grad)
    assert torch.equal(x.grad, y.grad)
    assert torch.equal(renorm.weight.grad, plain.weight.grad)
    assert torch.equal(renorm.bias.grad, plain.bias.grad)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_with_room_for_all_of_it_training_gives_what_evaluation_gives(shape) -> None:
    layer, x = made(shape, r_max=1e6, d_max=1e6), randn(*shape)
    expected = copy.deepcopy(layer).eval()(x)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"affine": False}], ids=str)
def test_first_and_second_derivatives_where_r_and_d_are_clipped(options) -> None:
    layer = bn.BatchRenorm1d(3, momentum=0.0, dtype=torch.float64, r_max=1.2, d_max=0.3, warmup=0, **options)
    with torch.no_grad():  # so far away that no small step changes r and d
        layer.running_mean.copy_(torch.tensor([9.0, -9.0, 90.0]))
        layer.running_std.copy_(torch.tensor([0.1, 0.2, 50.0]))
    mask = randn(5, 2, seed=2) > -1
    names = [name for name, _ in layer.named_parameters()]
    inputs = [randn(5, 3, 2), randn(5, 3, 2, seed=1), *layer.parameters()]

    def call(x, residual, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, given, (x, residual), {"act": "silu", "mask": mask})

    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_second_derivatives_take_r_and_d_for_constants() -> None:
    layer, x = made((6, 3)), randn(6, 3).requires_grad_()
    before = layer.running_mean.clone(), layer.running_std.clone()
    outputs = layer(x), algorithm(x, layer.weight, layer.bias, *before, 1.5, 0.5, 0.01)[0]
    found = []
    for output in outputs:
        (grad,) = torch.autograd.grad(output.pow(3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), [x, layer.weight]))
    torch.testing.assert_close(found[0], found[1])


def test_forward_mode_takes_r_and_d_for_constants() -> None:
    layer, x, tangent = made((6, 3)), randn(6, 3), randn(6, 3, seed=1)
    before = layer.running_mean.clone(), layer.running_std.clone()
    _, expected = torch.autograd.functional.jvp(
        lambda t: algorithm(t, layer.weight, layer.bias, *before, 1.5, 0.5, 0.01)[0], x, tangent
    )
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        actual = torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("step", "r_max", "d_max"),
    [
        (0, 1, 0),
        (5_000, 1, 0),
        (15_000, 1 + 2 * 10 / 35, 5 * 10 / 20),
        (25_000, 1 + 2 * 20 / 35, 5),
        (40_000, 3, 5),
        (90_000, 3, 5),
    ],
)
def test_the_schedule_by_default_is_the_papers(step, r_max, d_max) -> None:
    layer = bn.BatchRenorm1d(2, dtype=torch.float64)
    layer.num_batches_tracked.fill_(step)
    mean, std = torch.tensor([100.0, -100.0]).double(), torch.tensor([100.0, 0.001]).double()
    r, d = layer._corrections(mean, std)
    torch.testing.assert_close(r, torch.tensor([r_max, 1 / r_max]).double())
    torch.testing.assert_close(d, torch.tensor([d_max, -d_max]).double())


def test_schedules_of_ones_own() -> None:
    layer = bn.BatchRenorm1d(2, dtype=torch.float64, r_max=((10, 1), (20, 2), (40, 4)), d_max=2, warmup=10)
    mean, std = torch.tensor([100.0, -100.0]).double(), torch.tensor([100.0, 0.001]).double()
    for step, r_max, d_max in ((0, 1, 0), (10, 1, 0), (15, 1.5, 0.25), (30, 3, 1), (50, 4, 2), (99, 4, 2)):
        layer.num_batches_tracked.fill_(step)
        r, d = layer._corrections(mean, std)
        torch.testing.assert_close(r, torch.tensor([r_max, 1 / r_max]).double())
        torch.testing.assert_close(d, torch.tensor([d_max, -d_max]).double())


def test_training_goes_on_where_a_checkpoint_was() -> None:
    first = made((6, 3), r_max=3, d_max=5, warmup=2)
    for seed in range(5):
        first(randn(6, 3, seed=seed))
    second = made((6, 3), r_max=3, d_max=5, warmup=2)
    second.load_state_dict(first.state_dict(), strict=True)
    assert second.num_batches_tracked == 5
    x = randn(6, 3, seed=9)
    assert torch.equal(second(x), first(x))
    assert torch.equal(second.running_std, first.running_std)
    fresh = made((6, 3), r_max=3, d_max=5, warmup=2)
    fresh.load_state_dict({**first.state_dict(), "num_batches_tracked": torch.tensor(0)})
    assert not torch.equal(fresh(x), first(x))


def test_the_state_of_a_batch_norm_is_not_taken_for_its_own() -> None:
    renorm, plain = nn.Sequential(bn.BatchRenorm2d(3)), nn.Sequential(bn.BatchNorm2d(3))
    names = ["0.weight", "0.bias", "0.running_mean", "0.running_std", "0.num_batches_tracked"]
    assert list(renorm.state_dict()) == names
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=r"running_std = sqrt\(running_var \+ eps\)"):
            renorm.load_state_dict(plain.state_dict(), strict=strict)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("masked", [False, True])
def test_compiled_layers_do_the_same(masked, backend) -> None:
    torch._dynamo.reset()
    eager = made((6, 3, 4), r_max=3, d_max=2, warmup=1, dtype=torch.float32)
    traced, mask = copy.deepcopy(eager), randn(6, 4, seed=2) > -1 if masked else None
    compiled = torch.compile(traced, fullgraph=True, backend=backend)
    for seed in range(6):
        x, y = (2 * randn(6, 3, 4, seed=seed).float() for _ in range(2))
        first = eager(x.requires_grad_(), act="silu", mask=mask)
        second = compiled(y.requires_grad_(), act="silu", mask=mask)
        torch.testing.assert_close(second, first)
        first.pow(3).sum().backward(), second.pow(3).sum().backward()
        torch.testing.assert_close(y.grad, x.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(traced.running_std, eager.running_std)
        torch.testing.assert_close(traced.running_mean, eager.running_mean)
    assert traced.num_batches_tracked == 6


def test_padding_equals_the_valid_values_alone() -> None:
    lengths = torch.tensor([5, 3, 2, 1])
    x, valid = randn(4, 5, 3), torch.arange(5) < lengths.unsqueeze(1)
    padded, flat, packed = (made((4, 3, 5)) for _ in range(3))
    x[~valid] = float("nan")
    actual, expected = padded(x.mT, lengths=lengths).mT, flat(x[valid])
    torch.testing.assert_close(actual[valid], expected)
    assert (actual[~valid] == 0).all()
    torch.testing.assert_close(padded.running_std, flat.running_std)
    sequence = pack_padded_sequence(x, lengths, batch_first=True)
    packed(sequence)
    torch.testing.assert_close(packed.running_std, flat.running_std)
    before = copy.deepcopy(padded.state_dict())
    padded(x.mT, lengths=[1, 0, 0, 0])
    assert all(torch.equal(value, before[name]) for name, value in padded.state_dict().items())


def test_no_stats_update_holds_the_step_too() -> None:
    layer, x = made((6, 3), r_max=3, d_max=5, warmup=1), randn(6, 3)
    before, moving = copy.deepcopy(layer.state_dict()), copy.deepcopy(layer)
    with bn.no_stats_update(layer):
        assert torch.equal(layer(x), moving(x))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert moving.num_batches_tracked == 1


def test_an_empty_batch_ticks_and_moves_nothing() -> None:
    layer = made((6, 3))
    assert layer(torch.zeros(0, 3, dtype=torch.float64)).shape == (0, 3)
    assert layer.num_batches_tracked == 1
    assert torch.equal(layer.running_std, torch.tensor([0.9, 0.4, 3.0]).double())


def test_a_cumulative_average() -> None:
    layer, batches = (
        bn.BatchRenorm1d(3, momentum=None, dtype=torch.float64),
        [randn(6, 3, seed=s) for s in range(3)],
    )
    for x in batches:
        layer(x)
    torch.testing.assert_close(layer.running_mean, torch.stack(batches).mean((0, 1)))
    stds = [(x.var(0, correction=0) + 1e-5).sqrt() for x in batches]
    torch.testing.assert_close(layer.running_std, torch.stack(stds).mean(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_running_statistics_stay_wide(dtype) -> None:
    layer = bn.BatchRenorm2d(3, warmup=0).to(dtype)
    assert layer.running_std.dtype == layer.running_mean.dtype == torch.float32
    layer.load_state_dict({k: v.to(dtype) for k, v in layer.state_dict().items()}, assign=True)
    assert layer.running_std.dtype == torch.float32
    layer(randn(4, 3, 2, 2).to(dtype)).sum().backward()
    assert layer.weight.grad.dtype == dtype
    assert bn.BatchRenorm2d(3, dtype=dtype).running_std.dtype == torch.float32
    layer.reset_running_stats()
    assert torch.equal(layer.running_std, torch.ones(3))
    assert layer.num_batches_tracked == 0


def test_an_ensemble_under_vmap_moves_buffers_it_was_given() -> None:
    layer, x = made((6, 3)), randn(2, 6, 3)
    parameters = dict(layer.named_parameters())
    buffers = {name: torch.stack([buffer] * 2) for name, buffer in layer.named_buffers()}

    def call(buffers, x):
        return torch.func.functional_call(layer, {**parameters, **buffers}, (x,)), buffers

    output, moved = torch.func.vmap(call)(buffers, x)
    for number in range(2):
        other = made((6, 3))
        torch.testing.assert_close(other(x[number]), output[number])
        torch.testing.assert_close(other.running_std, moved["running_std"][number])
    with pytest.raises(RuntimeError, match="functional_call"):
        torch.func.vmap(layer)(x)


def test_torchs_tools_leave_it_alone_or_fail_loudly() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), bn.BatchRenorm2d(3))
    assert not isinstance(model[1], nn.modules.batchnorm._BatchNorm)
    assert type(nn.SyncBatchNorm.convert_sync_batchnorm(model)[1]) is bn.BatchRenorm2d
    with pytest.raises(AttributeError, match="running_var"):
        fuse_conv_bn_eval(model[0].eval(), model[1].eval())
    x = randn(2, 3, 4, 4).float()
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


MISFITS = [
    ({"r_max": 0.5}, "r_max must be at least 1"),
    ({"r_max": float("inf")}, "r_max must be at least 1 and finite"),
    ({"d_max": -1}, "d_max must be at least 0"),
    ({"d_max": "5"}, "d_max must be a number, or pairs"),
    ({"d_max": True}, "d_max must be a number, or pairs"),
    ({"r_max": ()}, "r_max must be a number, or pairs"),
    ({"r_max": ((0, 1), (0, 2))}, "steps from 0 that rise"),
    ({"r_max": ((-1, 1), (0, 2))}, "steps from 0 that rise"),
    ({"r_max": ((0, 1), (5, 0.5))}, "r_max must be at least 1"),
    ({"warmup": -1}, "warmup must be a number of steps"),
    ({"warmup": 1.5}, "warmup must be a number of steps"),
    ({"track_running_stats": False}, "track_running_stats must be True"),
]


@pytest.mark.parametrize(("options", "said"), MISFITS, ids=str)
def test_arguments_that_do_not_fit(options, said) -> None:
    with pytest.raises(ArgumentError, match=said):
        bn.BatchRenorm1d(3, **options)


def test_errors_of_the_call_are_batch_norms() -> None:
    with pytest.raises(BatchTooSmallError, match="Expected more than 1 value per channel"):
        bn.BatchRenorm1d(3)(torch.randn(1, 3))
    with pytest.raises(DimensionError, match="expected 4D input"):
        bn.BatchRenorm2d(3)(torch.randn(8, 3))
    assert repr(bn.BatchRenorm1d(3, r_max=((0, 1), (9, 2)))) == (
        "BatchRenorm1d(3, eps=1e-05, momentum=0.01, affine=True, bias=True, track_running_stats=True, "
        "r_max=((0, 1.0), (9, 2.0)), d_max=5.0, warmup=5000)"
    )
