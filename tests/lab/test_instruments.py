import copy

import numpy as np
import pytest
import torch
from torch import nn

from batchnorm.lab.instruments import BINS, activations


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 5),
        nn.BatchNorm1d(5),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(5, 5),
        nn.Identity(),
        nn.ReLU(inplace=True),
    )


def test_the_layers_are_seen_as_training_sees_them():
    model, probe = network(), torch.randn(64, 4)
    seen = activations(model, ("1",), probe, histogram=False)
    expected = model[0](probe).detach().numpy().ravel()
    before, after = seen
    assert (before["site"], before["where"], after["where"]) == ("1", "input", "output")
    assert before["mean"] == pytest.approx(expected.mean(), abs=1e-6)
    assert before["std"] == pytest.approx(expected.std(), rel=1e-5)
    assert [before[name] for name in ("p15", "p50", "p85")] == pytest.approx(
        np.percentile(expected, (15, 50, 85)).tolist(), rel=1e-5
    )
    # The running statistics of a fresh layer would leave the values as they are; the batch's do not.
    assert after["mean"] == pytest.approx(0, abs=1e-5)
    assert after["std"] == pytest.approx(1, abs=1e-3)


def test_an_activation_in_place_behind_the_layer_does_not_change_what_is_shown():
    seen = activations(network(), ("1", "5"), torch.randn(64, 4), histogram=False)
    assert seen[1]["p15"] < -0.5
    assert seen[2]["p15"] < 0
    assert {k: v for k, v in seen[2].items() if k != "where"} == {
        k: v for k, v in seen[3].items() if k != "where"
    }


def test_nothing_of_the_network_nor_of_the_random_state_changes():
    model = network()
    model[2].eval()
    kept, flags = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    state = torch.get_rng_state()
    probe = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    activations(model, ("1",), probe, histogram=True)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_network_that_cannot_be_copied_is_measured_all_the_same():
    model = network()
    model.weird = model[0].weight * 1  # a tensor with a history, which deepcopy refuses
    with pytest.raises(RuntimeError):
        copy.deepcopy(model)
    assert len(activations(model, ("1",), torch.randn(8, 4), histogram=False)) == 2


def test_histograms_count_every_value_between_the_extremes():
    seen = activations(network(), ("1",), torch.randn(64, 4), histogram=True)
    for entry in seen:
        edges, counts = entry["histogram"]["edges"], entry["histogram"]["counts"]
        assert len(edges) == BINS + 1
        assert len(counts) == BINS
        assert sum(counts) == 64 * 5
        assert edges == sorted(edges)


def test_values_that_are_not_finite_have_no_histogram():
    probe = torch.randn(8, 4)
    probe[0, 0] = float("nan")
    seen = activations(network(), ("1",), probe, histogram=True)
    assert seen[0]["histogram"] is None
    assert not np.isfinite(seen[0]["mean"])


def test_a_layer_that_is_never_called_is_left_out():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.used(x)

    seen = activations(Lazy(), ("used", "unused"), torch.randn(8, 4), histogram=False)
    assert {entry["site"] for entry in seen} == {"used"}
