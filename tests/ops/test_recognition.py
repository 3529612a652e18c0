"""Tensors checked once: what is alike is recognised, what differs is checked again, and no result can tell."""

import pytest
import torch

import batchnorm as bn
from batchnorm.ops import direct, recognition
from batchnorm.ops.recognition import Recognition

ROW = torch.ones(6)


def image(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


OTHERS = {
    "shape": lambda x: x[:2].clone(),
    "rank": lambda x: x.flatten(2),
    "dtype": lambda x: x.double(),
    "layout": lambda x: x.contiguous(memory_format=torch.channels_last),
    "strides": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "a negated view": lambda x: torch._neg_view(x),
    "zeros without memory": lambda x: torch._efficientzerotensor(x.shape),
    "device": lambda x: x.to("meta"),
    "Python's type": lambda x: torch.nn.Parameter(x),
    "requires_grad": lambda x: x.clone().requires_grad_(),
    "a sparse tensor": lambda x: x.to_sparse(),
    "a subclass": lambda x: x.as_subclass(type("Mine", (torch.Tensor,), {})),
}


@pytest.mark.parametrize("other", OTHERS)
def test_only_what_is_alike_in_everything_is_recognised(other) -> None:
    known, x = Recognition(), image(4, 6, 3, 2)
    known.keep(1, (x, ROW), "facts")
    assert known.find(1, (image(4, 6, 3, 2, seed=1), ROW)) == "facts"
    assert known.find(1, (OTHERS[other](x), ROW)) is None
    assert known.find(2, (x, ROW)) is None


def test_a_transform_and_another_mode_are_not_recognised() -> None:
    known, x = Recognition(), image(4, 6)
    known.keep(1, (x,), "facts")
    found = []
    torch.vmap(lambda row: found.append(known.find(1, (row,))) or row)(image(3, 4, 6))
    torch.func.grad(lambda row: found.append(known.find(1, (row,))) or row.sum())(x)
    with torch.inference_mode():
        found.append(known.find(1, (x.clone(),)))
    assert found == [None, None, None]


def test_the_same_tensor_twice_is_not_recognised_where_two_were_kept() -> None:
    known, x = Recognition(), image(4, 6)
    known.keep(1, (x, image(4, 6)), "facts")
    assert known.find(1, (x, x)) is None


def test_entries_are_bounded_and_hold_no_tensor() -> None:
    import weakref

    known, x = Recognition(), image(4, 6)
    gone = weakref.ref(x)
    for key in range(recognition._MOST + 3):
        known.keep(key, (x,), "facts")
    assert len(known._entries) <= recognition._MOST
    del x
    assert gone() is None


@pytest.fixture
def checked(native, monkeypatch):
    """How often each of the two full checks has run."""
    counts = {"_kind_of_forward": 0, "_kind_of_backward": 0}

    def counted(name):
        function = getattr(direct, name)

        def call(*args):
            counts[name] += 1
            return function(*args)

        return call

    for name in counts:
        monkeypatch.setattr(direct, name, counted(name))
    monkeypatch.setattr(direct, "_forwards", Recognition())
    monkeypatch.setattr(direct, "_backwards", Recognition())
    return counts


def step(layer, x, residual=None, act="relu"):
    x = x.detach().requires_grad_()
    output = layer(x, residual, act=act)
    grads = torch.autograd.grad(output, [x, *layer.parameters()], torch.ones_like(output) + output.detach())
    return [output.detach(), *grads, *(buffer.clone() for buffer in layer.buffers())]


@pytest.mark.parametrize("residual", [None, image(4, 6, 3, 2, seed=5)], ids=["alone", "residual"])
@pytest.mark.parametrize("act", [None, "relu", "silu"])
def test_a_layer_is_checked_once_each_way(checked, act, residual) -> None:
    layer = bn.BatchNorm2d(6)
    for seed in range(5):
        step(layer, image(4, 6, 3, 2, seed=seed), residual, act)
    assert checked == {"_kind_of_forward": 1, "_kind_of_backward": 1}
    step(layer, image(5, 6, 3, 2), None, act)
    assert checked == {"_kind_of_forward": 2, "_kind_of_backward": 2}


def test_banks_of_statistics_are_recognised_by_where_they_lie(checked) -> None:
    layer = bn.DomainBatchNorm2d(6, num_domains=2)
    for seed in range(6):
        layer(image(4, 6, 3, 2, seed=seed), domain=seed % 2)
    assert checked["_kind_of_forward"] == 2


def _half(layer):
    layer.half()


def _other_data(layer):
    layer.weight.data = layer.weight.data.double()
    layer.bias.data = layer.bias.data.double()


def _transposed_weight(layer):
    layer.weight.data = torch.rand(6, 2)[:, 0]


def _float64_statistics(layer):
    layer._buffers["running_mean"] = layer.running_mean.double()
    layer._buffers["running_var"] = layer.running_var.double()


CHANGES = {
    "half": _half,
    "data": _other_data,
    "strides": _transposed_weight,
    "statistics": _float64_statistics,
}
INPUTS = {
    "contiguous": image(4, 6, 3, 2),
    "channels_last": image(4, 6, 3, 2).contiguous(memory_format=torch.channels_last),
    "other shape": image(3, 6, 5, 1),
    "strided": image(4, 6, 3, 4)[..., ::2],
    "float16": image(4, 6, 3, 2, dtype=torch.float16),
}


def _outcome(function, *args):
    try:
        return function(*args)
    except Exception as error:
        return [type(error)]


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_under_a_known_layer_is_seen(native, monkeypatch, change) -> None:
    def sequence() -> list:
        layer = bn.BatchNorm2d(6)
        found = []
        for turn in range(3):
            for x in INPUTS.values():
                found += _outcome(step, layer, x)
            if turn == 0:
                CHANGES[change](layer)
            if turn == 1:
                layer.eval()
        return found

    torch.manual_seed(0)
    found = sequence()
    for name in ("forward", "evaluate", "backward"):
        monkeypatch.setattr(direct, name, lambda *_: None)
    torch.manual_seed(0)
    expected = sequence()
    assert len(found) == len(expected)
    for mine, general in zip(found, expected, strict=True):
        if isinstance(general, torch.Tensor):
            torch.testing.assert_close(mine, general, rtol=0, atol=0)
        else:
            assert mine == general


def test_a_known_tensor_whose_memory_was_freed_is_refused(native) -> None:
    layer, x = bn.BatchNorm2d(6), image(4, 6, 3, 2)
    step(layer, x)
    layer.weight.untyped_storage().resize_(0)
    with pytest.raises(bn.errors.BackendError, match="not allocated"):
        layer(x)


def test_without_torchs_guards_every_call_is_checked(checked, monkeypatch) -> None:
    monkeypatch.setattr(recognition, "TensorGuards", None)
    layer = bn.BatchNorm2d(6)
    for _ in range(3):
        step(layer, image(4, 6, 3, 2))
    assert checked == {"_kind_of_forward": 3, "_kind_of_backward": 3}
