import itertools

import pytest
import torch
from torch import nn

import batchnorm.nn as ours
from batchnorm.surgery.carry import FIELDS, carry
from batchnorm.surgery.twins import SYNCED

PAIRS = [
    (getattr(nn, f"{lazy}BatchNorm{rank}d"), getattr(ours, f"{lazy}BatchNorm{rank}d"))
    for lazy, rank in itertools.product(("", "Lazy"), (1, 2, 3))
]
PAIRS.append((nn.SyncBatchNorm, ours.SyncBatchNorm))
BOTH_WAYS = [*PAIRS, *((mine, torchs) for torchs, mine in PAIRS)]


def hook(*_):
    return None


def filled(kind):
    """A layer with something to tell apart in every field."""
    size = () if "Lazy" in kind.__name__ else (5,)
    layer = kind(*size, eps=0.25, momentum=None)
    layer.affine = layer.track_running_stats = True
    for number, field in enumerate(FIELDS, 2):
        if field.slot == "hooks":
            vars(layer)[field.name][1000 + number] = hook
    if size:
        with torch.no_grad():
            for number, tensor in enumerate((*layer.parameters(), *layer.buffers()), 2):
                tensor.fill_(number)
        layer.weight.grad = torch.ones(5)
        layer.bias.requires_grad_(False)
    layer._is_full_backward_hook = True
    if kind in SYNCED:
        layer.process_group = "some ranks"
    layer._non_persistent_buffers_set = {"running_mean"}
    layer.eval()
    layer.tag = "by the user"
    return layer


def value(layer, field):
    if field.slot == "parameter":
        return layer._parameters[field.name]
    return layer._buffers[field.name] if field.slot == "buffer" else vars(layer)[field.name]


@pytest.mark.parametrize(("kind", "to"), BOTH_WAYS)
@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_each_field_arrives(kind, to, field):
    source = filled(kind)
    if field.name not in {**vars(source), **source._parameters, **source._buffers}:
        return  # there is none
    expected = value(source, field)
    target = to(*(() if "Lazy" in to.__name__ else (5,)), device="meta")
    if field.slot != "hooks" and field.name not in ("num_features", "affine", "track_running_stats"):
        assert value(target, field) is not expected
    carry(source, target, between_batch_norms=True)
    assert value(target, field) is expected
    if field.slot == "hooks":
        assert hook in expected.values()


@pytest.mark.parametrize(("kind", "to"), BOTH_WAYS)
def test_there_and_back_is_the_same_layer(kind, to):
    size = () if "Lazy" in kind.__name__ else (5,)
    source = filled(kind)
    before = {
        key: item for key, item in vars(source).items() if not key.endswith(("load_hook", "initialize_hook"))
    }
    tensors = {**source._parameters, **source._buffers}
    there, back = to(*size), kind(*size)
    carry(source, there, between_batch_norms=True)
    carry(there, back, between_batch_norms=True)
    after = {key: item for key, item in vars(back).items() if key in before}
    assert sorted(after) == sorted(before)
    assert all({**back._parameters, **back._buffers}[name] is tensor for name, tensor in tensors.items())
    for key in set(before) - {"_parameters", "_buffers", "_modules"}:
        assert after[key] is before[key]


def test_table_covers_all_that_torch_keeps_in_a_layer():
    held = set(vars(nn.BatchNorm2d(3))) | set(vars(ours.BatchNorm2d(3)))
    held |= set(vars(nn.SyncBatchNorm(3))) | set(vars(ours.SyncBatchNorm(3)))
    held |= set(nn.BatchNorm2d(3)._parameters) | set(nn.BatchNorm2d(3)._buffers)
    assert held - {field.name for field in FIELDS} == {"_parameters", "_buffers", "_modules"}


def test_other_layers_take_all_but_the_statistics():
    source, target = filled(nn.BatchNorm2d), nn.GroupNorm(1, 5)
    carry(source, target, between_batch_norms=False)
    assert target.weight is source.weight
    assert target.bias is source.bias
    assert target.eps == 0.25
    assert not target.training
    assert target.tag == "by the user"
    assert target._forward_hooks is source._forward_hooks
    assert not list(target.buffers())
    assert not hasattr(target, "num_features")


@pytest.mark.parametrize(
    ("weight", "stored", "narrow", "expected"),
    [
        (torch.float16, torch.float16, False, torch.float32),
        (torch.bfloat16, torch.float32, True, torch.bfloat16),
        (torch.float32, torch.float64, True, torch.float32),
        (torch.float64, torch.float64, False, torch.float64),
        (None, torch.float32, True, torch.float32),
    ],
)
def test_type_of_the_statistics(weight, stored, narrow, expected):
    source = nn.BatchNorm2d(3, affine=weight is not None, dtype=weight)
    source.running_mean, source.running_var = torch.zeros(3, dtype=stored), torch.ones(3, dtype=stored)
    target = nn.BatchNorm2d(3, affine=weight is not None)
    carry(source, target, between_batch_norms=True, narrow=narrow)
    assert target.running_mean.dtype == target.running_var.dtype == expected
    assert target.num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize(("kind", "to"), [pair for pair in BOTH_WAYS if "Lazy" in pair[0].__name__])
def test_a_lazy_layer_still_wakes_and_keeps_the_users_hooks(kind, to):
    source, target = kind(), to()
    calls = []
    handle = source.register_forward_hook(lambda *_: calls.append(1))
    carry(source, target, between_batch_norms=True)
    x = torch.randn(4, 6, *[3] * int(kind.__name__[-2]))
    target(x)
    assert target.num_features == 6
    assert "Lazy" not in type(target).__name__
    assert not target._forward_pre_hooks
    handle.remove()
    target(x)
    assert calls == [1]
