"""`no_stats_update`: nothing moves inside, everything outside, and the switch is put back."""

import copy
import threading

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.errors import ArgumentError, ArgumentTypeError

LAYERS = {
    "ours": lambda: bn.BatchNorm1d(3),
    "cumulative": lambda: bn.BatchNorm1d(3, momentum=None),
    "channels_last": lambda: bn.ChannelsLastBatchNorm(3),
    "torch": lambda: nn.BatchNorm1d(3),
}


def network(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), layer, nn.Linear(3, 2))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_the_output_is_the_same_and_the_state_stays(name, training) -> None:
    model = network(LAYERS[name]()).train(training)
    model(torch.randn(8, 4) + 2)
    twin, state, x = copy.deepcopy(model), copy.deepcopy(model.state_dict()), torch.randn(8, 4)
    with bn.no_stats_update(model):
        output = model(x)
        output.sum().backward()
    assert torch.equal(output, twin(x))
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert model[0].weight.grad is not None
    if training:
        model(x)
        assert model[1].num_batches_tracked == state["1.num_batches_tracked"] + 1
        assert not torch.equal(model[1].running_mean, state["1.running_mean"])


def test_the_mode_may_change_inside() -> None:
    model = network(bn.BatchNorm1d(3))
    x = torch.randn(8, 4)
    model(x)
    expected = copy.deepcopy(model).eval()(x)
    with bn.no_stats_update(model):
        assert torch.equal(model.eval()(x), expected)
        model.train()
        model(x)
    assert model[1].num_batches_tracked == 1


def test_a_block_that_raises_and_nested_blocks_put_the_switch_back() -> None:
    untracked = nn.BatchNorm1d(3, track_running_stats=False)
    model = nn.Sequential(bn.BatchNorm1d(3), untracked)
    with pytest.raises(KeyError), bn.no_stats_update(model):
        raise KeyError
    assert [layer.track_running_stats for layer in model] == [True, False]
    with bn.no_stats_update(model):
        with bn.no_stats_update(model[0]):
            pass
        model(torch.randn(8, 3))
    assert model[0].num_batches_tracked == 0
    assert [layer.track_running_stats for layer in model] == [True, False]


def test_a_lazy_layer_must_have_seen_its_first_input() -> None:
    model = nn.Sequential(bn.LazyBatchNorm1d())
    with pytest.raises(ArgumentError, match="0 is a lazy layer"), bn.no_stats_update(model):
        pass
    model(torch.randn(8, 3))
    with bn.no_stats_update(model):
        model(torch.randn(8, 3))
    assert model[0].num_batches_tracked == 1


def test_it_holds_in_other_threads() -> None:
    layer = bn.BatchNorm1d(3)
    with bn.no_stats_update(layer):
        thread = threading.Thread(target=layer, args=(torch.randn(8, 3),))
        thread.start()
        thread.join()
    assert layer.num_batches_tracked == 0


def test_a_compiled_model() -> None:
    model = network(bn.BatchNorm1d(3))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = torch.randn(8, 4)
    compiled(x)
    with bn.no_stats_update(compiled):
        compiled(x)
    assert model[1].num_batches_tracked == 1
    compiled(x)
    assert model[1].num_batches_tracked == 2


def test_sharpness_aware_minimization_counts_each_batch_once() -> None:
    torch.manual_seed(0)
    model, x, y = network(bn.BatchNorm1d(3)), torch.randn(16, 4), torch.randint(2, (16,))
    reference = copy.deepcopy(model)
    reference(x)
    nn.functional.cross_entropy(model(x), y).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * parameter.grad
    with bn.no_stats_update(model):
        nn.functional.cross_entropy(model(x), y).backward()
    assert torch.equal(model[1].running_mean, reference[1].running_mean)
    assert torch.equal(model[1].num_batches_tracked, reference[1].num_batches_tracked)


def test_only_a_module_is_taken() -> None:
    with pytest.raises(ArgumentTypeError, match=r"takes an nn\.Module, got list"), bn.no_stats_update([]):
        pass
