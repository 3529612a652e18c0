"""BatchNormLSTM against the paper's equations in float64, and against nn.LSTM where its norms do nothing."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import batchnorm as bn
from batchnorm.errors import ArgumentError, BatchTooSmallError, DimensionError, ShapeError

LENGTHS = torch.tensor([3, 5, 2, 5, 3, 3])
NORMS = ("norm_ih", "norm_hh", "norm_c")


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(max_steps: int = 5, **options) -> bn.BatchNormLSTM:
    torch.manual_seed(0)
    layer = bn.BatchNormLSTM(3, 4, max_steps, batch_first=True, **options).double()
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter.add_(0.3 * randn(*parameter.shape, seed=number))
    return layer


class Oracle:
    """Equations 6 to 8 one sequence set a step, with plain formulas: x (N, L, I), lengths (N,)."""

    def __init__(self, layer: bn.BatchNormLSTM) -> None:
        self.layer = layer
        self.running = {
            name: (getattr(layer, name).running_mean.clone(), getattr(layer, name).running_var.clone())
            for name in NORMS
        }

    def norm(self, name: str, values: torch.Tensor, step: int) -> torch.Tensor:
        norm = getattr(self.layer, name)
        means, variances = self.running[name]
        row = min(step, norm.max_steps - 1)
        mean, var = means[row], variances[row]
        if self.layer.training:
            mean = values.mean(0)
            var = ((values - mean) ** 2).mean(0)
            if len(values) > 1 and step < norm.max_steps:
                unbiased = var * len(values) / (len(values) - 1)
                means[row] = 0.9 * means[row] + 0.1 * mean.detach()
                variances[row] = 0.9 * variances[row] + 0.1 * unbiased.detach()
        y = (values - mean) / (var + norm.eps) ** 0.5 * norm.weight
        return y if norm.bias is None else y + norm.bias

    def __call__(self, x, lengths, h, c):
        outputs = []
        for step in range(x.size(1)):
            on = lengths > step
            gates = self.norm("norm_hh", h[on] @ self.layer.weight_hh.T, step)
            gates = gates + self.norm("norm_ih", x[on, step] @ self.layer.weight_ih.T, step)
            i, f, g, o = gates.split(h.size(1), 1)
            new_c = torch.sigmoid(f) * c[on] + torch.sigmoid(i) * torch.tanh(g)
            new_h = torch.sigmoid(o) * torch.tanh(self.norm("norm_c", new_c, step))
            place = on.nonzero().flatten()
            h, c = h.index_copy(0, place, new_h), c.index_copy(0, place, new_c)
            outputs.append(torch.where(on[:, None], h, 0.0))
        return torch.stack(outputs, 1), h, c


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("max_steps", [5, 3])
@pytest.mark.parametrize("form", ["equal", "lengths", "packed"])
@pytest.mark.parametrize("given", [True, False])
def test_it_computes_the_papers_equations(training, max_steps, form, given) -> None:
    layer = made(max_steps)
    layer(randn(6, 5, 3, seed=3).double())
    layer.train(training)
    oracle = Oracle(layer)
    x = randn(6, 5, 3, seed=1).double()
    lengths = torch.full((6,), 5) if form == "equal" else LENGTHS
    if form != "equal":
        x[torch.arange(5) >= lengths.unsqueeze(1)] = float("nan")
    x.requires_grad_()
    hx = tuple(randn(1, 6, 4, seed=s).double() if given else torch.zeros(1, 6, 4).double() for s in (7, 8))
    expected, h, c = oracle(x, lengths, hx[0][0], hx[1][0])
    if form == "packed":
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out, state = layer(packed, hx if given else None)
        assert isinstance(out, PackedSequence)
        out = pad_packed_sequence(out, batch_first=True)[0]
    else:
        out, state = layer(x, hx if given else None, lengths=lengths if form == "lengths" else None)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(state, (h.unsqueeze(0), c.unsqueeze(0)))
    for name in NORMS:
        torch.testing.assert_close(getattr(layer, name).running_mean.double(), oracle.running[name][0])
        torch.testing.assert_close(getattr(layer, name).running_var.double(), oracle.running[name][1])
    leaves = [x, *layer.parameters()]
    grads = [randn(*t.shape, seed=s).double() for s, t in enumerate((out, h, c), 20)]
    ours = torch.autograd.grad([out, state[0][0], state[1][0]], leaves, grads)
    theirs = torch.autograd.grad([expected, h, c], leaves, grads)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, torch.nan_to_num(b))


def without_norm(batch_first: bool) -> tuple[bn.BatchNormLSTM, nn.LSTM]:
    """The layer in evaluation with mean 0, variance 1, eps 0 and weight 1 is an LSTM."""
    ours, theirs = bn.BatchNormLSTM(3, 4, 2, batch_first).eval(), nn.LSTM(3, 4, batch_first=batch_first)
    with torch.no_grad():
        for name in NORMS:
            norm = getattr(ours, name)
            norm.eps = 0.0
            norm.weight.fill_(1)
        ours.norm_ih.bias.copy_(theirs.bias_ih_l0 + theirs.bias_hh_l0)
        ours.weight_ih.copy_(theirs.weight_ih_l0)
        ours.weight_hh.copy_(theirs.weight_hh_l0)
    return ours, theirs


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("is_sorted", [True, False])
def test_without_its_norms_it_is_an_lstm(batch_first, given, is_sorted) -> None:
    ours, theirs = without_norm(batch_first)
    x = randn(6, 5, 3)
    hx = (randn(1, 6, 4, seed=1), randn(1, 6, 4, seed=2)) if given else None
    lengths = LENGTHS.sort(descending=True)[0] if is_sorted else LENGTHS
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=is_sorted)
    if not batch_first:
        x = x.transpose(0, 1)
    torch.testing.assert_close(ours(x, hx), theirs(x, hx))
    out, expected = ours(packed, hx), theirs(packed, hx)
    torch.testing.assert_close(out[0].data, expected[0].data)
    torch.testing.assert_close(out[1], expected[1])
    padded, state = ours(x, hx, lengths=lengths)
    torch.testing.assert_close(padded, pad_packed_sequence(expected[0], batch_first)[0])
    torch.testing.assert_close(state, expected[1])


@pytest.mark.parametrize("form", ["equal", "lengths"])
def test_gradients_of_both_orders(form) -> None:
    layer = bn.BatchNormLSTM(2, 2, 2, batch_first=True).double()
    lengths = torch.tensor([3, 3, 2]) if form == "lengths" else None
    arguments = [randn(3, 3, 2).double(), randn(1, 3, 2, seed=1).double(), randn(1, 3, 2, seed=2).double()]
    leaves = [value.requires_grad_() for value in arguments]
    run = lambda x, h, c: layer(x, (h, c), lengths=lengths)  # noqa: E731
    assert torch.autograd.gradcheck(lambda *v: (run(*v)[0], *run(*v)[1]), leaves)
    assert torch.autograd.gradgradcheck(lambda *v: run(*v)[0], leaves)


def test_it_starts_as_the_authors_code_does() -> None:
    layer = bn.BatchNormLSTM(3, 4, 2)
    i, f, g, o = layer.weight_hh.detach().split(4)
    assert torch.equal(g, torch.eye(4))
    gates = torch.cat([i, f, o])
    torch.testing.assert_close(gates.T @ gates, torch.eye(4))
    torch.testing.assert_close(layer.weight_ih.T @ layer.weight_ih, torch.eye(3))
    assert layer.norm_ih.bias.tolist() == [0] * 4 + [1] * 4 + [0] * 8
    assert layer.norm_hh.bias is None
    assert all((getattr(layer, name).weight == 0.1).all() for name in NORMS)
    assert bn.BatchNormLSTM(3, 4, 2, dtype=torch.bfloat16).weight_hh.dtype == torch.bfloat16


def test_it_starts_orthogonal_to_the_digits_of_its_type_whatever_the_default_is() -> None:
    weight = bn.BatchNormLSTM(3, 4, 5, dtype=torch.float64).weight_ih
    torch.testing.assert_close(weight.T @ weight, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-14)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert bn.BatchNormLSTM(3, 4, 5).weight_hh.dtype == torch.bfloat16
    finally:
        torch.set_default_dtype(before)


def test_statistics_are_of_the_steps_that_more_than_one_sequence_reaches() -> None:
    layer = bn.BatchNormLSTM(3, 4, 6, batch_first=True)
    output, _ = layer(randn(3, 5, 3), lengths=torch.tensor([4, 2, 2]))
    assert output.shape == (3, 5, 4)  # as long as the input, also where no sequence is
    for name in NORMS:
        assert getattr(layer, name).num_batches_tracked.tolist() == [1, 1, 0, 0, 0, 0], name


def test_autocast_and_narrow_types() -> None:
    layer, x = bn.BatchNormLSTM(3, 4, 5, batch_first=True), randn(6, 5, 3)
    exact = layer(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x)[0].float(), exact, rtol=0.05, atol=0.02)
    out, (h, c) = layer.bfloat16()(x.bfloat16())
    assert out.dtype == h.dtype == c.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.02)


def test_fx_takes_it_as_one_node_and_torch_compile_as_one_graph() -> None:
    model, x = nn.Sequential(bn.BatchNormLSTM(3, 4, 5)), randn(5, 6, 3)
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(x), model(x))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
    assert model[0].norm_hh.num_batches_tracked.tolist() == [4] * 5


LAYER, X = bn.BatchNormLSTM(3, 4, 5, batch_first=True), randn(6, 5, 3)


@pytest.mark.parametrize(
    ("error", "said", "call"),
    [
        (
            ShapeError,
            r"input.size\(-1\) must be equal to input_size. Expected 3, got 2",
            lambda: LAYER(X[..., :2]),
        ),
        (DimensionError, "LSTM: Expected input to be", lambda: LAYER(X[0])),
        (
            ShapeError,
            r"Expected hidden\[1\] size \(1, 6, 4\), got \[1, 5, 4\]",
            lambda: LAYER(X, (torch.zeros(1, 6, 4), torch.zeros(1, 5, 4))),
        ),
        (ShapeError, "Expected sequence length to be larger than 0 in RNN", lambda: LAYER(X[:, :0])),
        (ArgumentError, "RNN input dtype", lambda: LAYER(X.double())),
        (
            ArgumentError,
            "Length of all samples has to be greater than 0",
            lambda: LAYER(X, lengths=[5, 0, 1, 1, 1, 1]),
        ),
        (ArgumentError, "lengths must be from 0 to 5, got 6", lambda: LAYER(X, lengths=[6, 1, 1, 1, 1, 1])),
        (ArgumentError, r"lengths must be \(6,\) integers", lambda: LAYER(X, lengths=[5])),
        (ArgumentError, "hidden_size must be at least 1", lambda: bn.BatchNormLSTM(3, 0, 2)),
        (BatchTooSmallError, "more than 1 value", lambda: LAYER(X[:1])),
    ],
)
def test_misuse_is_named(error, said, call) -> None:
    with pytest.raises(error, match=said):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m(X[..., :2]),
        lambda m: m(X, (torch.zeros(1, 6, 4), torch.zeros(1, 5, 4))),
        lambda m: m(X[:, :0]),
        lambda m: m(X.double()),
    ],
)
def test_the_errors_are_those_of_an_lstm(call) -> None:
    with pytest.raises((RuntimeError, ValueError)) as theirs:
        call(nn.LSTM(3, 4, batch_first=True))
    with pytest.raises(type(theirs.value)) as ours:
        call(LAYER)
    assert str(ours.value)[:30] == str(theirs.value)[:30]
