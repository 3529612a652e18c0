import numpy as np
import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm import probes
from batchnorm.errors import ArgumentError, ArgumentTypeError
from tests.probes.nets import batch, everything


def test_inputs_and_outputs_are_those_of_the_formula():
    model, (x, _) = everything(), batch()
    seen = {s.path: s for s in probes.activations(model, x, ["first", "ours", "relu"])}
    hidden = x.numpy() @ model.first.weight.detach().numpy().T + model.first.bias.detach().numpy()
    normed = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
    np.testing.assert_allclose(seen["first"].input, x, rtol=0)
    np.testing.assert_allclose(seen["ours"].input, hidden, rtol=1e-12)
    # The rectifier behind it works in place, on these very values.
    np.testing.assert_allclose(seen["ours"].output, normed, atol=1e-12)
    np.testing.assert_allclose(seen["relu"].input, normed, atol=1e-12)
    np.testing.assert_allclose(seen["relu"].output, np.maximum(normed, 0), atol=1e-12)


def test_the_model_runs_in_the_modes_it_is_in():
    model, (x, _) = everything(), batch()
    model.ours.running_mean.fill_(2)
    model.eval()
    evaluated = probes.activations(model, x, ["ours", "drop"])
    expected = (evaluated[0].input - 2) / np.sqrt(1 + 1e-5)
    torch.testing.assert_close(evaluated[0].output, expected)
    assert torch.equal(evaluated[1].input, evaluated[1].output)
    model.train()
    trained = probes.activations(model, x, ["drop"])[0]
    assert not torch.equal(trained.input, trained.output)


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.outer, self.step = nn.Identity(), nn.Linear(2, 2, bias=False)

    def forward(self, x, *, times):
        for _ in range(times):
            x = self.step(input=x)
        return {"result": self.outer(x)}


def test_each_call_is_told_apart_in_the_order_in_which_they_end():
    model, x = Loop().double(), torch.eye(2, dtype=torch.float64)
    seen = probes.activations(model, {"x": x, "times": 3}, ["", "outer", "step"])
    assert [(s.path, s.call) for s in seen] == [("step", 0), ("step", 1), ("step", 2), ("outer", 0), ("", 0)]
    power = model.step.weight.detach().numpy().T
    for call in range(3):
        np.testing.assert_allclose(seen[call].output, np.linalg.matrix_power(power, call + 1), rtol=1e-12)
    assert torch.equal(seen[-1].output, seen[2].output)  # the first tensor in the dict


def test_measures_run_inside_the_pass_on_both_sides():
    model, (x, _) = everything().eval(), batch()
    copies = probes.activations(model, x, ["ours", "relu"])
    sums = probes.activations(model, x, ["ours", "relu"], measure=lambda values: values.sum().item())
    assert [(s.input, s.output) for s in sums] == [
        (s.input.sum().item(), s.output.sum().item()) for s in copies
    ]


def test_a_recurrent_layer_and_a_module_without_tensors():
    class Position(nn.Module):
        def forward(self):
            return 3

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.position, self.lstm = Position(), bn.BatchNormLSTM(2, 3, max_steps=5)

        def forward(self, x):
            return self.position() * self.lstm(x)[0]

    seen = probes.activations(Net(), torch.randn(5, 4, 2), ["position", "lstm", "lstm.norm_c"])
    assert (seen[0].input, seen[0].output) == (None, None)
    assert [s.path for s in seen[1:]] == ["lstm.norm_c"] * 5 + ["lstm"]
    assert seen[-1].output.shape == (5, 4, 3)


def test_a_module_at_two_places_is_seen_under_each_name_that_was_asked_for():
    model, (x, _) = everything().eval(), batch()
    seen = probes.activations(model, x, ["last", "shared"])
    assert {s.path for s in seen} == {"last", "shared"}
    assert torch.equal(seen[0].output, seen[1].output)


def test_a_module_that_is_not_called_is_left_out_and_a_path_named_twice_is_seen_once():
    model, (x, _) = everything(), batch()
    assert [s.path for s in probes.activations(model, x, ["unused", "ours", "ours"])] == ["ours"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_copies_have_the_type_of_the_activation(dtype):
    model, (x, _) = everything(dtype), batch(dtype)
    assert probes.activations(model, x, ["ours"])[0].output.dtype == dtype


@pytest.mark.parametrize(
    ("model", "at", "error", "message"),
    [
        (None, ["0"], ArgumentTypeError, "model: expected an nn.Module, got NoneType"),
        (nn.Sequential(nn.ReLU()), "0", ArgumentTypeError, "at: expected a list of module paths"),
        (nn.Sequential(nn.ReLU()), [nn.ReLU()], ArgumentTypeError, "at: expected a list of module paths"),
        (nn.Sequential(nn.ReLU()), [], ArgumentError, "at: expected the path of a module or more, got none"),
        (nn.Sequential(nn.ReLU()), ["1"], ArgumentError, "named_modules.. has, got '1'; it has , 0"),
        (nn.Sequential(nn.LazyLinear(2)), ["0"], ArgumentError, "0.weight belongs to a lazy layer"),
    ],
)
def test_what_cannot_be_watched_is_a_typed_error(model, at, error, message):
    with pytest.raises(error, match=message):
        probes.activations(model, torch.ones(1, 1), at)
