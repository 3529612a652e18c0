"""The short path of common calls: which calls take it, and that no call can tell."""

import pytest
import torch
from torch import Tensor

import batchnorm as bn
from batchnorm.errors import ArgumentError, BackendError, BatchNormError
from batchnorm.ops import direct


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def taken(native, monkeypatch):
    """The names of the functions of `direct` that answered with a result."""
    names = []

    def counted(name, function):
        def call(*args):
            found = function(*args)
            if found is not None:
                names.append(name)
            return found

        return call

    for name in direct.__all__:
        monkeypatch.setattr(direct, name, counted(name, getattr(direct, name)))
    return names


def layer_of(x: Tensor, **options) -> bn.BatchNorm2d:
    classes = {2: bn.BatchNorm1d, 3: bn.BatchNorm1d, 4: bn.BatchNorm2d, 5: bn.BatchNorm3d}
    layer = classes[x.dim()](x.size(1), **options)
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.add_(randn(*parameter.shape, seed=seed) / 4)
    return layer


def everything(layer, x: Tensor, residual: Tensor | None = None, act: str | None = None, **options) -> list:
    """Output, gradients and buffers of one step."""
    leaves = [None if t is None else t.detach().requires_grad_(t.is_floating_point()) for t in (x, residual)]
    output = layer(leaves[0], leaves[1], act=act, **options)
    wanted = [leaf for leaf in (*leaves, *layer.parameters()) if leaf is not None]
    grads = torch.autograd.grad(output, wanted, torch.empty_like(output).copy_(randn(*x.shape, seed=9)))
    return [output, *grads, *layer.buffers()]


def assert_same_bits(found: list, expected: list) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, check_stride=True)


def in_general(monkeypatch, function, *args, **options):
    with monkeypatch.context() as patched:
        for name in direct.__all__:
            patched.setattr(direct, name, lambda *_: None)
        return function(*args, **options)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "shape", [(7, 5), (4, 5, 3), (3, 5, 4, 2), (2, 5, 1, 2, 3), (1, 3, 2), (7, 1), (4, 1, 3, 2)], ids=str
)
@pytest.mark.parametrize(
    ("act", "added"), [(None, False), ("relu", False), (None, True), ("relu", True), ("silu", True)]
)
def test_common_calls_are_taken_and_give_the_same_bits(
    taken, monkeypatch, training, shape, act, added
) -> None:
    x = randn(*shape)
    residual = randn(*shape, seed=1) if added else None
    found = everything(layer_of(x).train(training), x, residual, act)
    assert taken == ["forward" if training else "evaluate", "backward"]
    expected = in_general(monkeypatch, everything, layer_of(x).train(training), x, residual, act)
    assert_same_bits(found, expected)


LAYOUTS = {
    "contiguous": ((3, 5, 4, 2), torch.contiguous_format),
    "channels_last": ((3, 5, 4, 2), torch.channels_last),
    "channels_last_3d": ((3, 5, 2, 4, 2), torch.channels_last_3d),
    "channels_last of one channel": ((3, 1, 4, 2), torch.channels_last),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("act", "added"), [(None, True), ("silu", False), ("relu", True)])
@pytest.mark.parametrize("running", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("dtype", "parameters"),
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32),
        (torch.float16, torch.float16),
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_type_and_layout_is_taken_and_gives_the_same_bits(
    taken, monkeypatch, layout, dtype, parameters, running, act, added, training
) -> None:
    shape, form = LAYOUTS[layout]
    x, residual = (randn(*shape, seed=seed).to(dtype).contiguous(memory_format=form) for seed in (0, 1))

    def step() -> list:
        layer = layer_of(x).to(parameters).train(training)
        for name in ("running_mean", "running_var"):
            layer._buffers[name] = layer._buffers[name].to(running)
        return everything(layer, x, residual if added else None, act)

    found = step()
    assert taken == ["forward" if training else "evaluate", "backward"]
    assert found[0].is_contiguous(memory_format=form)
    assert_same_bits(found, in_general(monkeypatch, step))


@pytest.mark.parametrize("shape", [(7, 5), (4, 3, 5), (2, 4, 3, 5)], ids=str)
def test_layers_of_channels_in_the_last_dimension_are_taken(taken, monkeypatch, shape) -> None:
    x = randn(*shape)
    found = everything(bn.ChannelsLastBatchNorm(5), x, x, "silu")
    assert taken == ["forward", "backward"]
    expected = in_general(monkeypatch, everything, bn.ChannelsLastBatchNorm(5), x, x, "silu")
    assert_same_bits(found, expected)
    assert_same_bits(found[:1], [bn.BatchNorm1d(5)(*(x.reshape(-1, 5),) * 2, act="silu").view(shape)])


@pytest.mark.parametrize("channel_dim", [0, 1, 2, -1])
@pytest.mark.parametrize("training", [True, False])
def test_the_function_takes_it_too(taken, monkeypatch, training, channel_dim) -> None:
    def step() -> list:
        x, weight, bias = randn(4, 4, 4).requires_grad_(), randn(4, seed=1).requires_grad_(), randn(4, seed=2)
        running = [randn(4, seed=3), randn(4, seed=4).square()]
        output = bn.functional.batch_norm(
            x, *running, weight, bias, training, 0.3, 1e-3, residual=x, act="relu", channel_dim=channel_dim
        )
        return [output, *torch.autograd.grad(output, [x, weight], randn(4, 4, 4, seed=5)), *running]

    found = step()
    assert taken == ["forward" if training else "evaluate", "backward"]
    assert_same_bits(found, in_general(monkeypatch, step))


@pytest.mark.parametrize("options", [{"affine": False}, {"bias": False}], ids=str)
def test_layers_without_parameters_are_taken(taken, monkeypatch, options) -> None:
    x = randn(7, 5)
    found = everything(layer_of(x, **options), x)
    assert taken == ["forward", "backward"]
    expected = in_general(monkeypatch, everything, layer_of(x, **options), x)
    assert_same_bits(found, expected)


def test_without_gradients_no_node_is_made(taken) -> None:
    x = randn(7, 5)
    layer = layer_of(x).eval()
    with torch.no_grad():
        assert layer(x).grad_fn is None
    assert layer.requires_grad_(False)(x).grad_fn is None
    assert taken == ["evaluate", "evaluate"]


def changed(**buffers):
    def change(layer) -> None:
        for name, value in buffers.items():
            setattr(layer, name, value)

    return change


def wide_parameters(layer) -> None:
    layer.weight, layer.bias = (torch.nn.Parameter(p.detach().reshape(1, -1)) for p in layer.parameters())


def strided_weight(layer) -> None:
    layer.weight = torch.nn.Parameter(randn(10)[::2])


def longer_weight(layer) -> None:
    layer.weight = torch.nn.Parameter(randn(6))


def narrow_bias(layer) -> None:
    layer.bias = torch.nn.Parameter(layer.bias.detach().bfloat16())


def negated_weight(layer) -> None:
    layer.weight = torch.nn.Parameter(randn(5)._neg_view())


def parameter_mean(layer) -> None:
    layer._buffers["running_mean"] = torch.nn.Parameter(randn(5), requires_grad=False)


def strided_mean(layer) -> None:
    layer.running_mean = randn(10)[::2]


class Marked(Tensor):
    """A subclass."""


GENERAL = {
    "float64 and parameters in float32": (randn(7, 5).double(), None, {}),
    "float32 and parameters in float64": (randn(7, 5), torch.nn.Module.double, {}),
    "parameters of two types": (randn(7, 5).bfloat16(), narrow_bias, {}),
    "part of channels_last": (randn(2, 6, 3, 4).contiguous(memory_format=torch.channels_last)[:, :5], None, {}),
    "negated": (randn(7, 5)._neg_view(), None, {}),
    "negated residual": (randn(7, 5), None, {"residual": randn(7, 5)._neg_view()}),
    "negated weight": (randn(7, 5), negated_weight, {}),
    "negated mean": (randn(7, 5), changed(running_mean=randn(5)._neg_view()), {}),
    "integers": (torch.arange(35).view(7, 5), None, {}),
    "sparse": (randn(7, 5).to_sparse(), None, {}),
    "sparse residual": (randn(7, 5), None, {"residual": randn(7, 5).to_sparse()}),
    "residual of the other layout": (
        randn(2, 5, 3, 4), None, {"residual": randn(2, 5, 3, 4).contiguous(memory_format=torch.channels_last)}
    ),
    "strided": (randn(5, 7).T, None, {}),
    "subclass": (randn(7, 5).as_subclass(Marked), None, {}),
    "mask": (randn(7, 5), None, {"mask": torch.arange(7) < 5}),
    "residual of another layout": (randn(7, 5), None, {"residual": randn(5, 7).T}),
    "residual of another type": (randn(7, 5), None, {"residual": randn(7, 5).double()}),
    "cumulative average": (randn(7, 5), changed(momentum=None), {}),
    "buffers of two types": (randn(7, 5), changed(running_mean=randn(5).double()), {}),
    "narrow buffers": (randn(7, 5), changed(running_mean=randn(5).half(), running_var=torch.ones(5).half()), {}),
    "a parameter as a buffer": (randn(7, 5), parameter_mean, {}),
    "narrow counter": (randn(7, 5), changed(num_batches_tracked=torch.tensor(0, dtype=torch.int32)), {}),
    "counter of a subclass": (
        randn(7, 5), changed(num_batches_tracked=torch.tensor(0).as_subclass(Marked)), {}
    ),
    "not tracked": (randn(7, 5), changed(running_mean=None, running_var=None), {}),
    "strided mean": (randn(7, 5), strided_mean, {}),
    "strided weight": (randn(7, 5), strided_weight, {}),
    "parameters (1, C)": (randn(7, 5), wide_parameters, {}),
    "one channel more in the mean": (randn(7, 5), changed(running_mean=randn(6)), {}),
    "one channel more in the variance": (randn(7, 5), changed(running_var=torch.ones(6)), {}),
    "strided variance": (randn(7, 5), changed(running_var=randn(10).square()[::2]), {}),
    "one value a channel": (randn(1, 5), None, {}),
    "eps 0": (randn(7, 5), changed(eps=0.0), {}),
    "eps NaN": (randn(7, 5), changed(eps=float("nan")), {}),
    "eps an integer": (randn(7, 5), changed(eps=1), {}),
    "momentum an integer": (randn(7, 5), changed(momentum=1), {}),
    "momentum a word": (randn(7, 5), changed(momentum="a"), {}),
    "residual of another shape": (randn(7, 5), None, {"residual": randn(5)}),
    "counter of two numbers": (randn(7, 5), changed(num_batches_tracked=torch.zeros(2, dtype=torch.int64)), {}),
    "one channel more in the weight": (randn(7, 5), longer_weight, {}),
    "a number": (torch.tensor(1.0), None, {}),
    "no values": (randn(0, 5), None, {}),
}  # fmt: skip


def outcome(case: str) -> list | str:
    x, change, options = GENERAL[case]
    layer = layer_of(x) if x.dim() > 1 else bn.BatchNorm1d(5)
    if change is not None:
        change(layer)
    try:
        return everything(layer, x, **options)
    except (BatchNormError, ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("case", GENERAL)
def test_other_calls_are_the_general_paths(taken, monkeypatch, case) -> None:
    found = outcome(case)
    assert taken == []
    expected = in_general(monkeypatch, outcome, case)
    if isinstance(found, str):
        assert found == expected
    else:
        assert_same_bits(found, expected)


def grad_of_sum(layer, x: Tensor) -> Tensor:
    return torch.func.grad(lambda value: layer(value).square().sum())(x)


def checkpointed(layer, x: Tensor) -> Tensor:
    output = torch.utils.checkpoint.checkpoint(layer, x.requires_grad_(), use_reentrant=False)
    output.square().sum().backward()
    return output.detach()


def in_reference(layer, x: Tensor) -> Tensor:
    with bn.backend("reference"):
        return layer(x)


@pytest.mark.parametrize(
    ("call", "times", "ticks"),
    [(grad_of_sum, [], 0), (checkpointed, ["forward", "backward"], 1), (in_reference, [], 1)],
)
def test_what_watches_or_repeats_a_call_takes_the_general_path(taken, call, times, ticks) -> None:
    x = randn(7, 5)
    layer = layer_of(x)
    if call is grad_of_sum:
        layer.eval()
    call(layer, x)
    assert taken == times
    assert layer.num_batches_tracked == ticks


def test_backwards_that_are_watched_or_differentiated_again_take_the_general_path(taken) -> None:
    x = randn(7, 5).requires_grad_()
    layer = layer_of(x)
    grad = randn(7, 5, seed=3)
    (first,) = torch.autograd.grad(layer(x), x, grad)
    assert taken == ["forward", "backward"]
    (second,) = torch.autograd.grad(layer(x), x, grad, create_graph=True)
    (batched,) = torch.autograd.grad(layer(x), x, torch.stack([grad, grad]), is_grads_batched=True)
    (strided,) = torch.autograd.grad(layer(x), x, grad.T.contiguous().T)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.t().contiguous().t()):
        (unpacked,) = torch.autograd.grad(layer(x), x, grad)
    assert taken == ["forward", "backward", *["forward"] * 4]
    for found in (second, *batched, strided, unpacked):
        torch.testing.assert_close(found, first)


def test_a_default_device_does_not_move_the_numbers(taken) -> None:
    x = randn(7, 5).requires_grad_()
    layer = layer_of(x)
    with torch.device("meta"):
        layer(x).sum().backward()
    assert taken[0] == "forward"
    assert layer.weight.grad.is_cpu
    assert torch.isfinite(layer.weight.grad).all()


def test_gradients_are_tensors_of_their_own(taken) -> None:
    x = randn(7, 5).requires_grad_()
    layer = layer_of(x)
    layer(x).square().sum().backward()
    assert taken == ["forward", "backward"]
    places = {tensor.untyped_storage().data_ptr() for tensor in (x.grad, layer.weight.grad, layer.bias.grad)}
    assert len(places) == 3


@pytest.mark.parametrize("eps", [0.0, 0.75])
def test_evaluation_adds_the_eps_that_it_is_given(taken, eps) -> None:
    x = randn(7, 5)
    found = bn.BatchNorm1d(5, eps=eps).eval()(x)
    assert taken == ["evaluate"]
    torch.testing.assert_close(found, x / (1 + eps) ** 0.5)


def test_a_negative_eps_is_refused_in_evaluation_too(taken) -> None:
    x = randn(7, 5)
    layer = layer_of(x, eps=-1e-3).eval()
    with pytest.raises(ArgumentError, match="eps must be non-negative"):
        layer(x)


def test_a_checkpointed_backward_that_is_not_taken_reads_what_was_saved_once(taken) -> None:
    x = randn(7, 5).requires_grad_()
    torch.utils.checkpoint.checkpoint(layer_of(x), x, use_reentrant=False).sum().backward()
    assert taken == ["forward"]
    assert x.grad is not None


TENSORS = ["input", "residual", "weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


@pytest.mark.parametrize("path", ["short", "general"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_whose_storage_was_freed_is_an_error(native, name, training, path) -> None:
    layer, tensors = bn.BatchNorm1d(5).train(training), {"input": randn(7, 5), "residual": randn(7, 5)}
    mask = None if path == "short" else torch.ones(7, dtype=torch.bool)
    if name == "num_batches_tracked" and not training:
        pytest.skip("evaluation does not read it")
    tensor = tensors[name] if name in tensors else getattr(layer, name).data
    tensor.untyped_storage().resize_(0)
    with pytest.raises(BackendError, match="data is not allocated"):
        layer(*tensors.values(), mask=mask)
