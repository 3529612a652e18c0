"""What the short path does beside numbers: versions, what stays alive, what is saved, which gradients are asked for."""

import gc
import weakref

import pytest
import torch
from torch import Tensor

import batchnorm as bn
from batchnorm.errors import ArgumentError, ArgumentTypeError, DimensionError, DtypeError, ShapeError
from batchnorm.ops import choice, direct, memory
from batchnorm.ops.shared_library import load

pytestmark = pytest.mark.usefixtures("native")


@pytest.mark.parametrize("counted", [True, False])
def test_training_tells_autograd_that_the_buffers_moved(counted) -> None:
    layer = bn.BatchNorm1d(5)
    if not counted:
        layer.num_batches_tracked = None
    buffers = list(layer.buffers())
    before = [buffer._version for buffer in buffers]
    layer(torch.randn(7, 5))
    assert [buffer._version for buffer in buffers] == [version + 1 for version in before]
    layer.eval()(torch.randn(7, 5))
    assert [buffer._version for buffer in buffers] == [version + 1 for version in before]


def test_a_word_as_momentum_is_refused_in_evaluation_too() -> None:
    layer = bn.BatchNorm1d(5).eval()
    layer.momentum = "a"
    with pytest.raises(ArgumentTypeError, match="momentum"):
        layer(torch.randn(7, 5))


def test_an_eps_that_is_no_number_is_refused_in_evaluation_too() -> None:
    with pytest.raises(ArgumentError, match="eps must be non-negative"):
        bn.BatchNorm1d(5, eps=float("nan")).eval()(torch.randn(7, 5))


def test_an_output_dies_with_its_last_reference() -> None:
    x = torch.randn(7, 5, requires_grad=True)
    gc.collect()
    gc.disable()  # a cycle would need it
    try:
        output = bn.BatchNorm1d(5)(x, act="relu")
        seen = weakref.ref(output)
        del output
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("mask", [None, torch.arange(7) > 2], ids=["short", "general"])
def test_only_what_autograd_saves_stays_alive(mask) -> None:
    # Hooks that offload saved tensors would free nothing of what a node holds otherwise.
    node = bn.BatchNorm1d(5)(torch.randn(7, 5), mask=mask).grad_fn
    assert node.call.mask is None
    assert node.call.running is None
    assert node.call.given is None


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ({}, 2),
        ({"act": "relu"}, 3),
        ({"act": "silu", "residual": True}, 4),
        ({"act": "relu", "residual": True}, 3),
    ],
    ids=str,
)
def test_what_is_saved(options, saved) -> None:
    x, kept = torch.randn(7, 5, requires_grad=True), []
    residual = torch.randn(7, 5) if options.get("residual") else None
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        output = bn.BatchNorm1d(5)(x, residual, act=options.get("act"))
    assert len(kept) == saved
    large = [t.data_ptr() for t in kept if t.dim() == 2]
    second = output if options.get("act") == "relu" else residual
    assert large == [x.data_ptr(), *([second.data_ptr()] if residual is not None else [])]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("asked", ["x", "weight", "bias", "residual"])
def test_each_gradient_comes_when_it_alone_is_asked_for(asked, masked) -> None:
    tensors = {
        "x": torch.randn(7, 5),
        "weight": torch.rand(5),
        "bias": torch.randn(5),
        "residual": torch.randn(7, 5),
    }
    grad, mask = torch.randn(7, 5), torch.ones(7, dtype=torch.bool) if masked else None

    def gradient(values: dict[str, Tensor], name: str) -> Tensor:
        values = {key: value.clone().requires_grad_(key == name) for key, value in values.items()}
        weight, bias, residual = values["weight"], values["bias"], values["residual"]
        output = bn.functional.batch_norm(
            values["x"],
            torch.zeros(5),
            torch.ones(5),
            weight,
            bias,
            True,
            residual=residual,
            act="silu",
            mask=mask,
        )
        return torch.autograd.grad(output, values[name], grad)[0]

    found = gradient(tensors, asked)
    with bn.backend("reference"):
        expected = gradient(tensors, asked)
    torch.testing.assert_close(found, expected)


def test_a_wide_bias_without_a_weight_gets_a_wide_gradient() -> None:
    bias = torch.zeros(1, requires_grad=True)
    grad = torch.ones(256, 1, dtype=torch.bfloat16)
    grad[0] = 2.0
    x = torch.randn(256, 1, requires_grad=True)
    output = bn.functional.batch_norm(x.bfloat16(), torch.zeros(1), torch.ones(1), None, bias, True)
    output.backward(grad)
    assert bias.grad == 257.0  # which bfloat16 does not have


@pytest.mark.parametrize("mask", [None, torch.arange(7) > -1], ids=["short", "general"])
def test_a_negated_gradient_is_read_as_its_values(mask) -> None:
    x, grad = torch.randn(7, 5, requires_grad=True), torch.randn(7, 5)
    layer = bn.BatchNorm1d(5)
    (found,) = torch.autograd.grad(layer(x, mask=mask), x, (-grad)._neg_view())
    (expected,) = torch.autograd.grad(layer(x, mask=mask), x, grad)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("create_graph", [False, True])
def test_channels_counted_from_the_end_have_every_backward(create_graph) -> None:
    x, grad = (
        torch.randn(2, 7, 5, requires_grad=True),
        torch.randn(2, 5, 7).transpose(1, 2),
    )  # not the short path's
    ours, layer = bn.ChannelsLastBatchNorm(5), bn.BatchNorm1d(5)
    found = torch.autograd.grad(ours(x), [x, *ours.parameters()], grad, create_graph=create_graph)
    expected = torch.autograd.grad(layer(x.transpose(1, 2)), [x, *layer.parameters()], grad.transpose(1, 2))
    for mine, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-4, atol=1e-5)


SAVED = ["input", "weight", "bias", "residual or output"]


def gradients(changed: str | None, change) -> tuple[Tensor, ...]:
    """Of a step whose hooks give one saved tensor back otherwise."""
    torch.manual_seed(0)
    x, residual = torch.randn(7, 5, requires_grad=True), torch.randn(7, 5, requires_grad=True)
    layer, names = bn.BatchNorm1d(5), iter(SAVED)

    def unpacked(named: tuple[str, Tensor]) -> Tensor:
        name, tensor = named
        return change(tensor) if name == changed else tensor

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (next(names), tensor), unpacked):
        output = layer(x, residual, act="silu")
    return torch.autograd.grad(output, [x, residual, *layer.parameters()], torch.randn(7, 5))


@pytest.mark.parametrize("name", SAVED)
def test_hooks_may_give_back_another_layout(name) -> None:
    found = gradients(name, lambda t: torch.stack([t, torch.full_like(t, 7.0)], -1)[..., 0])
    for mine, truth in zip(found, gradients(None, None), strict=True):
        assert torch.equal(mine, truth)


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.parametrize(
    ("change", "error"),
    [(Tensor.half, DtypeError), (lambda t: torch.cat([t, t]), ShapeError)],
    ids=["type", "size"],
)
def test_hooks_may_give_back_no_other_type_or_size(name, change, error) -> None:
    with pytest.raises(error, match=f"gave the {name} back"):
        gradients(name, change)


def test_a_mode_sees_the_operators_of_a_backward() -> None:
    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(str(function))
            return function(*args, **(kwargs or {}))

    x, names = torch.randn(7, 5, requires_grad=True), []
    output = bn.BatchNorm1d(5)(x)
    with Seen():
        torch.autograd.grad(output, x, torch.ones(7, 5))
    assert any("sum" in name for name in names)


def test_a_residual_without_an_activation_gets_the_gradient_itself() -> None:
    x, residual, grad = torch.randn(7, 5), torch.randn(7, 5, requires_grad=True), torch.randn(7, 5)
    output = bn.BatchNorm1d(5)(x.requires_grad_(), residual)
    assert torch.autograd.grad(output, [x, residual], grad)[1].data_ptr() == grad.data_ptr()


def test_where_there_are_no_kernels_the_reference_serves(monkeypatch) -> None:
    for module in (direct, choice):
        monkeypatch.setattr(module, "load", lambda: "taken away")
    monkeypatch.setattr(direct, "require", None)
    x = torch.randn(7, 5, requires_grad=True)
    output = bn.BatchNorm1d(5)(x)
    output.sum().backward()
    torch.testing.assert_close(output, torch.nn.BatchNorm1d(5)(x))


def test_one_dimension_is_refused_whatever_its_channels_are() -> None:
    with pytest.raises(ShapeError, match="2 or more dimensions"):
        bn.functional.batch_norm(torch.randn(5), torch.zeros(5), torch.ones(5), channel_dim=0)


def test_large_gradients_come_from_the_pool_too(monkeypatch) -> None:
    if load().keep_bytes == 0:
        pytest.skip("BATCHNORM_KEEP_BYTES=0")
    monkeypatch.setattr(memory, "POOLED_BYTES", 1)
    x, residual = torch.randn(7, 5, requires_grad=True), torch.randn(7, 5, requires_grad=True)
    output = bn.BatchNorm1d(5)(x, residual, act="silu")
    for tensor in (output, *torch.autograd.grad(output, [x, residual], torch.ones(7, 5))):
        assert not tensor.untyped_storage().resizable()


@pytest.mark.parametrize("channel_dim", [2, -3])
@pytest.mark.parametrize("training", [True, False])
def test_channels_that_are_not_there_are_refused(training, channel_dim) -> None:
    with pytest.raises(DimensionError, match=f"channel_dim must be from -2 to 1, got {channel_dim}"):
        bn.functional.batch_norm(
            torch.randn(7, 5), torch.zeros(5), torch.ones(5), training=training, channel_dim=channel_dim
        )


def test_a_layer_of_cumulative_averages_is_evaluated_on_the_short_path() -> None:
    given = (torch.randn(7, 5), None, None, None, None, torch.zeros(5), torch.ones(5))
    assert direct.evaluate(*given, momentum=None, eps=1e-5, channel_dim=1) is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_bias_without_a_weight_is_read_in_its_own_type(dtype) -> None:
    x, bias = torch.randn(7, 5).to(dtype), torch.arange(5.0).to(dtype)
    found = bn.functional.batch_norm(x, torch.zeros(5), torch.ones(5), None, bias, eps=0.0)
    assert torch.equal(found, x + bias)
