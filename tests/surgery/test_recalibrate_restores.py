"""What recalibrate must not change: everything but the statistics, and everything when it fails."""

import copy
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.errors import ArgumentError, ArgumentTypeError, ConversionError, DataError

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm1 = nn.Conv2d(1, 4, 3), bn.BatchNorm2d(4, momentum=None)
        self.drop, self.norm2 = nn.Dropout(0.5), nn.BatchNorm2d(4)
        self.calls = []

    def forward(self, x):
        self.calls.append(len(x))
        return self.norm2(self.drop(torch.relu_(self.norm1(self.conv(x)))))


def snapshot(model):
    return {
        "state": copy.deepcopy(model.state_dict()),
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "flags": [m.training for m in model.modules()],
        "momenta": [getattr(m, "momentum", None) for m in model.modules()],
        "tracks": [getattr(m, "track_running_stats", None) for m in model.modules()],
        "requires": [p.requires_grad for p in model.parameters()],
        "hooks": [list(m._forward_hooks) + list(m._forward_pre_hooks) for m in model.modules()],
        "with_kwargs": [len(m._forward_hooks_with_kwargs) for m in model.modules()],
        "calls": list(model.calls),
        "names": [sorted(vars(m)) for m in model.modules()],
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
    }


def assert_same(before, after, but=()):
    assert before.keys() == after.keys()
    for key, value in before["state"].items():
        if not key.endswith(but or ("never",)):
            assert torch.equal(value, after["state"][key]), key
    for a, b in zip(before["grads"], after["grads"], strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)
    for key in before.keys() - {"state", "grads"}:
        assert before[key] == after[key], key


def trained():
    torch.manual_seed(0)
    net = Net()
    net.conv.bias.requires_grad_(False)
    net.norm1.register_forward_hook(lambda *_: None)
    net.norm2.eval()
    net(torch.randn(6, 1, 6, 6)).sum().backward()
    return net


def drawing(parts):
    for part in parts:
        random.random()
        np.random.rand()
        torch.rand(3)
        yield part


class Loader:
    def __init__(self, parts, fails_at=None):
        self.parts, self.fails_at, self.passes = parts, fails_at, 0

    def __iter__(self):
        self.passes += 1
        for number, part in enumerate(drawing(self.parts)):
            if (self.passes, number) == self.fails_at:
                raise OSError("the disk is gone")
            yield part


@pytest.mark.parametrize("upstream", ["population", "batch"])
def test_nothing_but_the_statistics_changes(upstream):
    net = trained()
    parts = list(torch.randn(12, 1, 6, 6).split(4))
    kept = [part.clone() for part in parts]
    before = snapshot(net)
    assert bn.recalibrate_(net, Loader(parts), upstream=upstream) is net
    assert_same(before, snapshot(net), but=STATISTICS)
    assert not torch.equal(before["state"]["norm2.running_var"], net.norm2.running_var)
    assert net.norm1.num_batches_tracked == 3
    assert all(torch.equal(a, b) for a, b in zip(parts, kept, strict=True))
    assert not net.norm1.running_mean.requires_grad
    before = snapshot(net)
    new = bn.recalibrate(net, Loader(parts), 1, upstream=upstream)
    assert_same(before, snapshot(net))
    assert new is not net
    assert new.norm1.num_batches_tracked == 1


@pytest.mark.parametrize("upstream", ["population", "batch"])
@pytest.mark.parametrize("fails_at", [(1, 0), (1, 2), (2, 1)])
def test_a_loader_that_raises_leaves_everything_as_it_was(upstream, fails_at):
    net = trained()
    parts = list(torch.randn(12, 1, 6, 6).split(4))
    before = snapshot(net)
    loader = Loader(parts, fails_at)
    if upstream == "batch" and fails_at[0] == 2:
        bn.recalibrate_(net, loader, upstream=upstream)
        assert loader.passes == 1
        return
    with pytest.raises(OSError, match="the disk is gone"):
        bn.recalibrate_(net, loader, upstream=upstream)
    assert_same(before, snapshot(net))


def test_a_model_that_raises_and_one_that_is_interrupted():
    net, x = trained(), torch.randn(4, 2, 6, 6)
    before = snapshot(net)
    with pytest.raises(RuntimeError, match="channels"):
        bn.recalibrate_(net, [x[:, :1], x])
    assert_same(before, snapshot(net))

    def stop(model, batch):
        model(batch)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bn.recalibrate_(net, x[:, :1], forward=stop)
    assert_same(before, snapshot(net))


def test_momentum_none_goes_on_with_the_average():
    x = torch.randn(12, 3, dtype=torch.float64)
    layer = bn.BatchNorm1d(3, momentum=None, dtype=torch.float64).double()
    bn.recalibrate_(layer, x[:9].split(3))
    layer.train()(x[9:])
    torch.testing.assert_close(layer.running_mean, x.mean(0))


def test_a_wrapped_model_and_a_compiled_one():
    x = torch.randn(20, 3)
    wrapped = nn.DataParallel(nn.Sequential(bn.BatchNorm1d(3)))
    bn.recalibrate_(wrapped, x.split(6))
    torch.testing.assert_close(wrapped.module[0].running_mean, x.mean(0))
    run = []
    bn.recalibrate_(wrapped, x.split(20), forward=lambda model, batch: run.append(model) or model(batch))
    assert run == [wrapped.module]
    compiled = torch.compile(nn.Sequential(bn.BatchNorm1d(3)), backend="eager")
    with torch.no_grad():
        compiled.eval()(x[:5])
    bn.recalibrate_(compiled, x.split(5))
    torch.testing.assert_close(compiled._orig_mod[0].running_mean, x.mean(0))


# In a process of its own that ends without destroying anything: what destroys a process group of torch's can hold the
# interpreter's lock, wait for gloo's thread, and that for the lock.
WRAPPED = """
import os, sys, torch
from torch import nn
import batchnorm as bn

torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
x = torch.randn(20, 3)
net = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), bn.SyncBatchNorm(4)))
for upstream in ("population", "batch"):
    bn.recalibrate_(net, x.split(5), upstream=upstream)
    seen = net.module[0](x)
    torch.testing.assert_close(net.module[1].running_mean, seen.mean(0))
    torch.testing.assert_close(net.module[1].running_var, seen.var(0))
torch.testing.assert_close(net.module[2].running_mean, torch.zeros(4), atol=1e-6, rtol=0)
net(x).sum().backward()
assert net.module[0].weight.grad is not None
print("all of it", flush=True)
os._exit(0)
"""


def test_inside_distributed_data_parallel(tmp_path):
    command = [sys.executable, "-c", WRAPPED, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "all of it"), done.stderr


@pytest.mark.parametrize("upstream", ["population", "batch"])
def test_a_model_that_works_in_place_on_its_input_does_not_change_the_data(upstream):
    x = torch.randn(20, 3)
    kept = x.clone()
    net = nn.Sequential(nn.ReLU(inplace=True), bn.BatchNorm1d(3), bn.BatchNorm1d(3))
    bn.recalibrate_(net, [x], upstream=upstream)
    assert torch.equal(x, kept)
    torch.testing.assert_close(net[1].running_mean, kept.relu().mean(0))


def test_a_hook_that_changes_the_input_is_seen_through():
    layer = bn.BatchNorm1d(3)
    layer.register_forward_pre_hook(lambda _, args: (args[0] + 10,))
    x = torch.randn(20, 3)
    bn.recalibrate_(layer, x.split(6))
    torch.testing.assert_close(layer.running_mean, x.mean(0) + 10)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"data": []}, DataError, "data yields no batch; nothing was changed"),
        (
            {"data": 3},
            ArgumentTypeError,
            "data must be an iterable of batches, such as a DataLoader, got int",
        ),
        ({"data": "abc"}, ArgumentTypeError, "got str"),
        ({"batches": 0}, ArgumentError, "batches must be at least 1, got 0"),
        ({"batches": 1.5}, ArgumentTypeError, "batches must be an int or None, got float"),
        ({"upstream": "eval"}, ArgumentError, "upstream: expected population or batch, got 'eval'"),
        ({"forward": 3}, ArgumentTypeError, "forward must be a function of model and batch, got int"),
        ({"data": [np.zeros((4, 1, 6, 6))]}, DataError, "batch 0 is a ndarray; expected a tensor"),
        ({"data": [(1, 2)]}, DataError, "batch 0 is a tuple of int"),
        ({"data": [()]}, DataError, "batch 0 is a tuple of nothing"),
        ({"forward": lambda *_: None}, ArgumentError, "called none of its batch norms; does forward run"),
        (
            {"data": iter([torch.zeros(4, 1, 6, 6)])},
            DataError,
            "is a list_iterator, which gives its batches once",
        ),
        ({"model": 3}, ArgumentTypeError, "takes an nn.Module, got int"),
        ({"model": nn.Sequential(bn.LazyBatchNorm1d())}, ArgumentError, "0 is a lazy layer that has not"),
        ({"model": nn.LazyBatchNorm1d()}, ArgumentError, "the model is a lazy layer"),
        (
            {"model": torch.jit.trace(nn.BatchNorm1d(3).eval(), torch.zeros(2, 3), check_trace=False)},
            ConversionError,
            "is TorchScript",
        ),
    ],
)
@pytest.mark.parametrize("verb", [bn.recalibrate, bn.recalibrate_])
def test_refusals(verb, arguments, error, message):
    net = trained()
    given = {"model": net, "data": [torch.randn(4, 1, 6, 6)], **arguments}
    before = snapshot(net)
    with pytest.raises(error) as caught:
        verb(given.pop("model"), given.pop("data"), **given)
    assert message in str(caught.value)
    assert_same(before, snapshot(net))


def test_an_iterator_is_enough_for_one_layer_or_one_pass():
    x = torch.randn(20, 1, 6, 6)
    net = bn.recalibrate(trained(), iter(x.split(5)), upstream="batch")
    assert net.norm2.num_batches_tracked == 4
    layer = bn.recalibrate(bn.BatchNorm2d(1), iter(x.split(5)))
    torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)))
