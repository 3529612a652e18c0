"""What torch does to modules: averaging, files, the meta device, copies in the middle of training, parametrizations."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel, update_bn

import batchnorm as bn

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 2


def network(norm=bn.BatchNorm2d) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 2, 3), norm(2))


def assert_same_state(mine: nn.Module, theirs: nn.Module, **close) -> None:
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[key], value, **close, msg=key)


@pytest.mark.parametrize("use_buffers", [False, True])
def test_averaged_models_are_those_of_torchs_layers(use_buffers) -> None:
    averaged = []
    for norm in (bn.BatchNorm2d, nn.BatchNorm2d):
        model = network(norm)
        average = AveragedModel(model, use_buffers=use_buffers)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for step in range(4):
            optimizer.zero_grad()
            model(X + step).square().mean().backward()
            optimizer.step()
            average.update_parameters(model)
        averaged.append(average)
    assert_same_state(*averaged, rtol=1e-4, atol=1e-5)
    for average in averaged:
        update_bn([X, X + 1, X + 2], average)
    assert averaged[0].module[1].num_batches_tracked == 3
    assert averaged[0].module[1].momentum == 0.1
    assert_same_state(*averaged, rtol=1e-4, atol=1e-5)


LAYERS = [
    bn.BatchNorm2d,
    bn.SyncBatchNorm,
    bn.GhostBatchNorm2d,
    bn.FrozenBatchNorm2d,
    lambda channels, **options: bn.DomainBatchNorm2d(channels, 2, **options),
]
IDS = ["BatchNorm", "Sync", "Ghost", "Frozen", "Domain"]


def call(layer, x):
    return layer(x, domain=1) if isinstance(layer, bn.DomainBatchNorm2d) else layer(x)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("kind", LAYERS, ids=IDS)
def test_weights_only_files(kind, assign, mmap, tmp_path) -> None:
    layer = kind(3)
    for step in range(3):
        call(layer, X + step)
    file = tmp_path / "layer.pt"
    torch.save(layer.state_dict(), file)
    state = torch.load(file, weights_only=True, mmap=mmap)
    loaded = kind(3)
    loaded.load_state_dict(state, assign=assign)
    loaded.train(), layer.train()
    for step in (5, 6):  # what was assigned from a mapped file is moved like any other buffer
        assert torch.equal(call(loaded, X + step), call(layer, X + step))
    assert_same_state(loaded, layer, rtol=0, atol=0)
    again = torch.load(file, weights_only=True)
    assert again["num_batches_tracked"].sum() == (0 if kind is bn.FrozenBatchNorm2d else 3)


@pytest.mark.parametrize("kind", LAYERS, ids=IDS)
def test_meta_device_then_to_empty_and_reset(kind) -> None:
    with torch.device("meta"):
        layer = kind(3)
    assert layer.running_mean.is_meta
    layer = layer.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            tensor.fill_(7)
    layer.reset_parameters()
    assert_same_state(layer, kind(3), rtol=0, atol=0)
    assert torch.equal(call(layer, X), call(kind(3), X))


@pytest.mark.parametrize("assign", [False, True])
def test_a_meta_model_takes_a_checkpoint(assign) -> None:
    trained = network()
    trained(X)
    with torch.device("meta"):
        model = network()
    if not assign:
        model.to_empty(device="cpu")
    model.load_state_dict(trained.state_dict(), assign=assign)
    assert torch.equal(model.eval()(X), trained.eval()(X))


def test_skip_init() -> None:
    layer = nn.utils.skip_init(bn.BatchNorm2d, 3)
    assert not layer.weight.is_meta
    layer.reset_parameters()
    assert_same_state(layer, bn.BatchNorm2d(3), rtol=0, atol=0)


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_between_forward_and_backward_trains_on_as_the_original(way) -> None:
    model = network()
    model(X).square().mean().backward()
    loss = model(X + 1).square().mean()
    if way == "deepcopy":
        twin = copy.deepcopy(model)
    elif way == "pickle":
        twin = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model, file)
        twin = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    assert twin[1].num_batches_tracked == 2
    assert twin[1].running_mean.data_ptr() != model[1].running_mean.data_ptr()
    for mine, theirs in zip(twin.parameters(), model.parameters(), strict=True):
        mine.grad = theirs.grad.clone()  # which torch copies for no parameter
    # The copy has the state but no graph: the same forward, without counting it twice, and both step on.
    loss.backward()
    with bn.no_stats_update(twin):
        twin(X + 1).square().mean().backward()
    for mine, theirs in zip(twin.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)
    assert torch.equal(twin(X + 2), model(X + 2))
    assert_same_state(twin, model, rtol=0, atol=0)


@pytest.mark.parametrize("norm", [bn.BatchNorm2d, bn.SyncBatchNorm, lambda c: bn.DomainBatchNorm2d(c, 1)])
def test_a_model_in_channels_last(norm) -> None:
    plain, last = network(norm), network(norm).to(memory_format=torch.channels_last)
    x = X.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = last(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, plain(X), rtol=1e-4, atol=1e-5)
    y.square().mean().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
    assert_same_state(last, plain, rtol=1e-5, atol=1e-6)


class Positive(nn.Module):
    def forward(self, x):
        return nn.functional.softplus(x)


def parametrized(layer):
    return parametrize.register_parametrization(layer, "weight", Positive())


def pruned(layer):
    return prune.l1_unstructured(layer, "weight", amount=2)


def normed(layer):
    return parametrizations.weight_norm(layer, dim=None)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("wrap", [parametrized, pruned, normed])
def test_weights_that_are_computed(wrap, training) -> None:
    layers = []
    for kind in (bn.BatchNorm2d, nn.BatchNorm2d):
        layer = kind(3)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([0.5, 1.0, 3.0]))
        wrap(layer)
        layer.train(training)(X).square().sum().backward()
        layers.append(layer)
    ours, theirs = layers
    torch.testing.assert_close(ours(X), theirs(X), rtol=1e-5, atol=1e-5)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours.eval()(X), theirs.eval()(X), rtol=1e-5, atol=1e-5)


def test_data_parallel_without_accelerators_is_the_model_itself() -> None:
    model, plain = network(), network()
    wrapped = nn.DataParallel(model)
    for step in range(2):
        assert torch.equal(wrapped(X + step), plain(X + step))
    assert_same_state(model, plain, rtol=0, atol=0)
    assert list(wrapped.state_dict()) == [f"module.{key}" for key in plain.state_dict()]


def test_a_replica_as_data_parallel_makes_them_moves_the_first_ones_buffers_only() -> None:
    # What torch.nn.parallel.replicate does to a module, without the copies between devices.
    model = bn.BatchNorm2d(3)
    replicas = [model._replicate_for_data_parallel() for _ in range(2)]
    for replica in replicas:
        replica.weight, replica.bias = model.weight, model.bias
    second = replicas[1]
    second._buffers = {name: buffer.clone() for name, buffer in second._buffers.items()}
    for replica, part in zip(replicas, (X[:8], X[8:]), strict=True):
        replica(part)
    alone = bn.BatchNorm2d(3)
    alone(X[:8])
    assert_same_state(model, alone, rtol=0, atol=0)
