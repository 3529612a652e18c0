import numpy as np
import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm import probes
from batchnorm.errors import ArgumentError
from tests.probes.nets import batch, cross_entropy, everything


@pytest.mark.parametrize("norm", [bn.BatchNorm2d, nn.BatchNorm2d])
def test_santurkars_identity_for_the_gradient_through_batch_norm(norm):
    """Theorem 4.1: ||dL/dy||^2 = gamma^2 / sigma^2 * (||g||^2 - <1, g>^2 / m - <g, yhat>^2 / m), g = dL/dz."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), norm(3, eps=1e-30), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2)
    ).double()
    nn.init.uniform_(model[1].weight, 0.5, 2)
    x = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    [gradient] = probes.activation_gradients(model, lambda model: model(x).logsumexp(1).mean(), ["1"])
    [value] = probes.activations(model, x, ["1"])
    for channel, gamma in enumerate(model[1].weight.tolist()):
        y, g = value.input[:, channel].numpy().ravel(), gradient.output[:, channel].numpy().ravel()
        yhat, m = (y - y.mean()) / y.std(), y.size
        expected = gamma**2 / y.var() * (g @ g - g.sum() ** 2 / m - (g @ yhat) ** 2 / m)
        found = gradient.input[:, channel].numpy().ravel()
        assert found @ found == pytest.approx(expected, rel=1e-11)
        assert abs(found.sum()) < 1e-14
        assert abs(found @ yhat) < 1e-13


def test_a_chain_by_hand_with_activations_in_place():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 1, bias=False)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    w1, b1, w2 = (parameter.detach().numpy() for parameter in model.parameters())
    before = x.numpy() @ w1.T + b1
    out = np.maximum(before, 0) @ w2.T
    seen = {
        s.path: s
        for s in probes.activation_gradients(
            model, lambda model: model(x).square().sum() / 2, ["0", "1", "2"]
        )
    }
    behind = out @ w2
    np.testing.assert_allclose(seen["2"].output, out, rtol=1e-12)
    np.testing.assert_allclose(seen["2"].input, behind, rtol=1e-12)
    np.testing.assert_allclose(seen["1"].output, behind, rtol=1e-12)
    np.testing.assert_allclose(seen["1"].input, behind * (before > 0), rtol=1e-12)
    # What the rectifier overwrites is the linear layer's output: the gradient is of the value that it gave.
    np.testing.assert_allclose(seen["0"].output, behind * (before > 0), rtol=1e-12)
    np.testing.assert_allclose(seen["0"].input, (behind * (before > 0)) @ w1, rtol=1e-12)
    [alone] = probes.activation_gradients(model, lambda model: model(x).square().sum() / 2, ["0"])
    assert torch.equal(alone.output, seen["0"].output)
    norms = probes.activation_gradient_norms(model, lambda model: model(x).square().sum() / 2, ["1"])
    assert norms[0].input == pytest.approx(np.linalg.norm(behind * (before > 0)), rel=1e-12)


class Recurrence(nn.Module):
    """h <- a h + tanh(read(h)), where read is a module and the rest is not."""

    def __init__(self, a):
        super().__init__()
        self.read, self.a = nn.Identity(), a

    def forward(self, h, steps):
        for _ in range(steps):
            h = self.a * h + torch.tanh(self.read(h))
        return h


def test_the_gradient_goes_every_way_that_leads_to_the_loss():
    model, steps = Recurrence(0.5), 4
    start = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    seen = probes.activation_gradients(model, lambda model: model(start, steps).sum(), ["read"])
    h, slopes = 0.3, []
    for _ in range(steps):
        slopes.append((0.5 + 1 / np.cosh(h) ** 2, 1 / np.cosh(h) ** 2))
        h = 0.5 * h + np.tanh(h)
    later = 1.0
    for call in reversed(range(steps)):
        total, through = slopes[call]
        assert seen[call].call == call
        assert seen[call].output.item() == pytest.approx(later * through, rel=1e-12)
        later *= total
        assert seen[call].input.item() == pytest.approx(later, rel=1e-12)


def test_time_steps_of_a_recurrent_batch_norm_are_those_of_a_written_out_loop():
    torch.manual_seed(0)
    lstm = bn.BatchNormLSTM(2, 3, max_steps=5).double()
    x = torch.randn(5, 4, 2, dtype=torch.float64)
    seen = probes.activation_gradient_norms(lstm, lambda lstm: lstm(x)[0][-1].square().sum(), ["norm_c"])
    h = c = torch.zeros(4, 3, dtype=torch.float64)
    cells = []
    for step in range(5):
        gates = lstm.norm_ih(x[step] @ lstm.weight_ih.T, step=step) + lstm.norm_hh(
            h @ lstm.weight_hh.T, step=step
        )
        i, f, g, o = gates.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        cells.append(c)
        h = o.sigmoid() * lstm.norm_c(c, step=step).tanh()
    gradients = torch.autograd.grad(h.square().sum(), cells)
    assert [s.input for s in seen] == pytest.approx([g.norm().item() for g in gradients], rel=1e-9)


def test_a_model_whose_parameters_are_all_frozen_and_an_input_that_wants_no_gradient():
    model, (x, _) = everything().requires_grad_(False), batch()
    model.drop.eval()
    seen = probes.activation_gradients(model, cross_entropy, ["first"])
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), batch()[1]), leaf)[0]
    torch.testing.assert_close(seen[0].input, expected, rtol=1e-10, atol=1e-14)
    own = torch.ones(2, 4, dtype=torch.float64)
    probes.activation_gradients(model.eval(), lambda model: model(own).sum(), ["first"])
    assert not own.requires_grad
    with pytest.raises(LookupError):
        probes.activation_gradients(model, lambda model: {}[model(own)], ["first"])
    assert not own.requires_grad


def test_an_input_that_is_written_to_later_and_integers_have_no_gradient():
    class Overwriting(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.act = nn.Embedding(3, 2), nn.Tanh()

        def forward(self, index):
            x = self.table(index) * 1
            y = self.act(x)
            x += y
            return x

    seen = probes.activation_gradients(
        Overwriting(), lambda model: model(torch.tensor([1])).sum(), ["table", "act"]
    )
    assert seen[0].input is None
    assert seen[0].output is not None
    assert seen[1].input is None
    assert torch.equal(seen[1].output, torch.ones(1, 2))


def test_what_the_loss_does_not_use_has_gradient_0():
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "aside": nn.Linear(2, 2)})

    def loss(model):
        model["aside"](torch.ones(1, 2))
        return model["used"](torch.ones(1, 2)).sum()

    seen = probes.activation_gradient_norms(model, loss, ["used", "aside"])
    assert [(s.path, s.output) for s in seen] == [("aside", 0.0), ("used", pytest.approx(2**0.5))]


def test_a_loss_without_a_graph_is_a_typed_error():
    with pytest.raises(ArgumentError, match="loss: expected a value with a gradient"):
        probes.activation_gradients(everything(), lambda model: torch.tensor(1.0), ["first"])


@pytest.mark.parametrize("use_reentrant", [False])
def test_a_checkpointed_part_is_counted_once(use_reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Sequential(nn.Linear(4, 3), bn.BatchNorm1d(3), nn.Tanh())

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.part, x, use_reentrant=use_reentrant)

    model, (x, _) = Checkpointed().double(), batch()
    plain = probes.activation_gradients(model.part, lambda part: part(x).square().sum(), ["1"])
    seen = probes.activation_gradients(model, lambda model: model(x).square().sum(), ["part.1"])
    assert len(seen) == 1
    torch.testing.assert_close(seen[0].output, plain[0].output)
    torch.testing.assert_close(seen[0].input, plain[0].input)
