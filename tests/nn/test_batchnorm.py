"""Drop-in for torch.nn.BatchNorm1d/2d/3d: everything a user or a tool can see."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.errors import BatchNormError

PAIRS = [(bn.BatchNorm1d, nn.BatchNorm1d), (bn.BatchNorm2d, nn.BatchNorm2d), (bn.BatchNorm3d, nn.BatchNorm3d)]
SHAPES = {"BatchNorm1d": (6, 4, 5), "BatchNorm2d": (4, 4, 3, 5), "BatchNorm3d": (3, 4, 2, 3, 2)}
ARGUMENTS = [
    ((), {}),
    ((1e-3, 0.3), {}),
    ((1e-3, None), {}),
    ((1e-5, 0.1, False), {}),
    ((1e-5, 0.1, True, False), {}),
    ((1e-5, 0.1, False, False), {}),
    ((), {"bias": False}),
    ((), {"dtype": torch.float64}),
    ((), {"momentum": None, "affine": False}),
]


def batch(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(params=PAIRS, ids=lambda pair: pair[0].__name__)
def pair(request):
    return request.param


def both(pair, *args, **kwargs):
    ours, theirs = pair[0](4, *args, **kwargs), pair[1](4, *args, **kwargs)
    if theirs.affine:
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.uniform_(0.5, 1.5)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def assert_same_state(ours: nn.Module, theirs: nn.Module) -> None:
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(("args", "kwargs"), ARGUMENTS, ids=str)
def test_trains_and_evaluates_as_torch_does(pair, args, kwargs) -> None:
    ours, theirs = both(pair, *args, **kwargs)
    assert isinstance(ours, pair[1])
    assert repr(ours) == repr(theirs)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    for step in range(4):
        if step == 3:
            ours.eval(), theirs.eval()
        x = batch(pair[0].__name__, step, kwargs.get("dtype", torch.float32))
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, z = ours(a), theirs(b)
        torch.testing.assert_close(y, z, rtol=1e-5, atol=1e-5)
        grad = torch.randn_like(z)
        y.backward(grad), z.backward(grad)
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4)
        assert_same_state(ours, theirs)


@pytest.mark.parametrize(("args", "kwargs"), ARGUMENTS, ids=str)
def test_state_dict_goes_both_ways(pair, args, kwargs) -> None:
    ours, theirs = pair[0](4, *args, **kwargs), pair[1](4, *args, **kwargs)
    ours(batch(pair[0].__name__, 1, kwargs.get("dtype", torch.float32)))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert ours._version == theirs._version == 2
    assert_same_state(ours, theirs)
    back = pair[0](4, *args, **kwargs)
    back.load_state_dict(theirs.state_dict(), strict=True)
    assert_same_state(back, theirs)


def test_a_checkpoint_from_before_the_counter_loads(pair) -> None:
    state = pair[1](4).state_dict()
    del state["num_batches_tracked"]
    state._metadata[""]["version"] = 1
    ours = pair[0](4)
    ours(batch(pair[0].__name__))
    ours.load_state_dict(state, strict=True)
    assert torch.equal(ours.running_mean, torch.zeros(4))


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "torch.save"])
def test_copies_are_whole(pair, way) -> None:
    layer = pair[0](4, momentum=None)
    layer(batch(pair[0].__name__))
    layer.eval()
    if way == "pickle":
        twin = pickle.loads(pickle.dumps(layer))
    elif way == "deepcopy":
        twin = copy.deepcopy(layer)
    else:
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    assert type(twin) is type(layer)
    assert not twin.training
    x = batch(pair[0].__name__, 5)
    assert torch.equal(twin(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_casts_move_parameters_but_never_narrow_the_statistics(pair, dtype) -> None:
    layer = pair[0](4)
    layer(batch(pair[0].__name__))
    exact = layer.running_var.clone()
    layer.to(dtype)
    assert layer.weight.dtype == dtype
    assert (
        layer.running_mean.dtype
        == layer.running_var.dtype
        == max(dtype, torch.float32, key=lambda d: d.itemsize)
    )
    assert torch.equal(layer.running_var, exact.to(layer.running_var.dtype))
    assert layer(batch(pair[0].__name__, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("how", ["constructor", "default dtype", "assign", "to_empty", "half then half"])
def test_statistics_are_wide_however_the_module_came_to_be(how) -> None:
    if how == "constructor":
        layer = bn.BatchNorm2d(4, dtype=torch.bfloat16)
    elif how == "default dtype":
        torch.set_default_dtype(torch.bfloat16)
        try:
            layer = bn.BatchNorm2d(4)
        finally:
            torch.set_default_dtype(torch.float32)
    elif how == "assign":
        layer = bn.BatchNorm2d(4)
        layer.load_state_dict(nn.BatchNorm2d(4).half().state_dict(), assign=True)
    elif how == "to_empty":
        layer = bn.BatchNorm2d(4, device="meta", dtype=torch.bfloat16).to_empty(device="cpu")
        layer.reset_parameters()
    else:
        layer = bn.BatchNorm2d(4).half().half()
    assert layer.weight.element_size() == 2
    assert layer.running_mean.dtype == layer.running_var.dtype == torch.float32
    assert torch.equal(layer.running_var, torch.ones(4))


def test_bfloat16_statistics_converge_where_torchs_stall() -> None:
    ours, theirs = bn.BatchNorm1d(1, momentum=0.01).bfloat16(), nn.BatchNorm1d(1, momentum=0.01).bfloat16()
    generator = torch.Generator().manual_seed(0)
    for _ in range(1500):
        x = (torch.randn(256, 1, generator=generator) + 5).bfloat16()
        ours(x), theirs(x)
    assert abs(ours.running_mean.item() - 5) < 0.05
    assert abs(theirs.running_mean.item() - 5) > 1


@pytest.mark.parametrize("ours", [bn.BatchNorm2d, bn.BatchNorm3d])
def test_memory_format_is_kept(ours) -> None:
    form = torch.channels_last if ours is bn.BatchNorm2d else torch.channels_last_3d
    x = batch(ours.__name__).contiguous(memory_format=form).requires_grad_()
    y = ours(4)(x, act="relu")
    assert y.is_contiguous(memory_format=form)
    y.sum().backward()
    assert x.grad.is_contiguous(memory_format=form)


PARTS = {
    "channels": lambda x: x[:, :3],
    "one channel": lambda x: x[:, :1],
    "rows": lambda x: x[:, :, 1:3],
    "every other column": lambda x: x[..., ::2],
    "every other sample": lambda x: x[::2],
    "transposed": lambda x: x.transpose(-1, -2),
    "expanded": lambda x: x[:1].expand(4, *x.shape[1:]),
    "expanded channel": lambda x: x[:, :1].expand(-1, 3, *x.shape[2:]),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "form", [torch.contiguous_format, torch.channels_last, torch.channels_last_3d], ids=str
)
def test_a_part_of_a_tensor_gives_the_memory_format_that_torch_gives(form, part, training) -> None:
    volume = form is torch.channels_last_3d
    x = torch.randn((4, 6, 5, 4, 4) if volume else (4, 6, 4, 4)).contiguous(memory_format=form)
    given = PARTS[part](x)
    name, channels = "BatchNorm3d" if volume else "BatchNorm2d", given.size(1)
    with torch.no_grad():
        found = getattr(bn, name)(channels).train(training)(given)
        expected = getattr(nn, name)(channels).train(training)(given)
    torch.testing.assert_close(found, expected, check_stride=True)


def test_buffers_set_to_none(pair) -> None:
    ours, theirs = both(pair)
    x = batch(pair[0].__name__)
    for layer in (ours, theirs):
        layer.running_mean = layer.running_var = None
    for training in (True, False):
        torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x), rtol=1e-5, atol=1e-5)
    assert ours.num_batches_tracked == theirs.num_batches_tracked == 1


def test_the_counter_set_to_none_means_momentum_zero_for_the_average(pair) -> None:
    layer = pair[0](4, momentum=None)
    layer.num_batches_tracked = None
    layer(batch(pair[0].__name__))
    assert torch.equal(layer.running_mean, torch.zeros(4))


def test_tracking_switched_off_later(pair) -> None:
    ours, theirs = both(pair)
    for layer in (ours, theirs):
        layer.track_running_stats = False
        layer(batch(pair[0].__name__))
    assert_same_state(ours, theirs)


def misuse(layer, name):
    x = batch(name)
    return {
        "too few dimensions": lambda: layer(torch.zeros(4)),
        "too many dimensions": lambda: layer(torch.zeros(2, 4, 1, 1, 1, 1)),
        "one value a channel": lambda: layer(x[:1].flatten(2)[..., :1].reshape(1, 4, *[1] * (x.dim() - 2))),
        "wrong channels": lambda: layer(torch.cat([x, x], dim=1)),
        "integers": lambda: layer(x.long()),
        "complex": lambda: layer(x.cfloat()),
        "another dtype": lambda: layer(x.double()),
        "narrow parameters": lambda: layer.half()(x),
        "no mean in evaluation": lambda: (setattr(layer, "running_mean", None), layer.eval()(x)),
        "half the buffers in training": lambda: (setattr(layer, "running_var", None), layer(x)),
        "eps zero": lambda: (setattr(layer, "eps", 0.0), layer(x)),
        "eps negative": lambda: (setattr(layer, "eps", -1.0), layer.eval()(x)),
        "wrong weight": lambda: (setattr(layer, "weight", nn.Parameter(torch.ones(3))), layer(x)),
    }


@pytest.mark.parametrize("case", list(misuse(None, "BatchNorm2d")))
def test_errors_are_of_torchs_type_and_ours_and_lose_nothing(pair, case) -> None:
    ours, theirs = both(pair)
    name = pair[0].__name__
    with pytest.raises(Exception) as expected:
        misuse(theirs, name)[case]()
    state = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(type(expected.value)) as actual:
        misuse(ours, name)[case]()
    assert isinstance(actual.value, BatchNormError)
    assert "\n" not in str(actual.value)
    if case not in ("another dtype", "narrow parameters", "integers", "complex"):
        opening = str(expected.value).split(" (got")[0].split(", got")[0]
        assert str(actual.value).startswith(opening)
    for key, value in ours.named_buffers():
        assert torch.equal(value, state[key]), key


def test_a_negative_number_of_features_is_refused_as_in_torch(pair) -> None:
    with pytest.raises(RuntimeError, match="negative dimension"):
        pair[0](-1)


def test_statistics_move_under_no_grad_and_with_frozen_weights() -> None:
    layer = bn.BatchNorm2d(4).requires_grad_(False)
    with torch.no_grad():
        layer(batch("BatchNorm2d"))
    assert layer.num_batches_tracked == 1
    assert not torch.equal(layer.running_mean, torch.zeros(4))


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_recomputed_forward_counts_once(reentrant) -> None:
    layer, plain = bn.BatchNorm2d(4), bn.BatchNorm2d(4)
    x = batch("BatchNorm2d").requires_grad_()
    y = batch("BatchNorm2d").requires_grad_()
    torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
    plain(y).square().sum().backward()
    assert layer.num_batches_tracked == 1
    assert torch.equal(layer.running_mean, plain.running_mean)
    assert torch.equal(layer.running_var, plain.running_var)
    assert torch.equal(x.grad, y.grad)
    assert torch.equal(layer.weight.grad, plain.weight.grad)


def test_only_the_input_and_small_numbers_are_saved_for_backward() -> None:
    sizes = []
    x = batch("BatchNorm2d").requires_grad_()

    def pack(tensor):
        sizes.append((tensor.data_ptr(), tensor.numel()))
        return tensor

    residual = batch("BatchNorm2d", 1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        bn.BatchNorm2d(4)(x, act="silu")
        bn.BatchNorm2d(4)(x, residual)
        bn.BatchNorm2d(4)(x, residual, act="silu")
        output = bn.BatchNorm2d(4)(x, residual, act="relu")
    large = [pointer for pointer, size in sizes if size > 16]
    kept = [residual.data_ptr(), x.data_ptr(), output.data_ptr()]
    assert large == [x.data_ptr(), x.data_ptr(), x.data_ptr(), *kept]
