import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from batchnorm.lab.data import cached
from batchnorm.lab.experiments import load
from batchnorm.lab.loop import batches
from batchnorm.lab.models import construct
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "recurrent-batch-norm"
SMALLER = {"rows": 3, "hidden": 5}


def test_contract():
    check(NAME, **SMALLER)


def records(small, large):
    lines = miniature(NAME, **SMALLER)
    for seed in range(5):
        spread = 1.1 ** (seed - 2)
        lines = doctored(lines, {"kept": small * spread}, gamma=0.1, seed=seed)
        lines = doctored(lines, {"kept": large / spread}, gamma=1.0, seed=seed)
    return lines


@pytest.mark.parametrize(
    ("small", "large", "verdict", "surprise"),
    [
        (1.0, 0.01, "reproduced", False),
        (1.0, 0.095, "not reproduced", False),  # the mean is above 10, the lower end is not
        (1.0, 0.5, "not reproduced", False),
        (1.0, 100.0, "not reproduced", True),
    ],
)
def test_verdict_turns(small, large, verdict, surprise):
    found = load(NAME).verdict(records(small, large))
    assert found.verdict == verdict
    assert found.value == pytest.approx(small / large)
    assert bool(found.surprise) is surprise


@pytest.mark.parametrize(
    ("small", "nearer", "meets"), [(0.5, "50.0", "would meet"), (0.05, "5.00", "would not meet")]
)
def test_where_the_gradient_grows_the_other_reading_of_the_claim_is_said_and_drawn(small, nearer, meets):
    lines = records(small, 100.0)
    found = load(NAME).verdict(lines)
    assert found.verdict == "not reproduced"
    assert not found.contradiction
    assert f"comes {nearer} [" in found.surprise
    assert f"which {meets} a threshold of 10." in found.surprise
    chart = load(NAME).figures(lines)[-1]
    assert chart.name == "from-one"
    curve = chart.panels[0].marks[0]
    drawn = dict(zip(curve.x, curve.y, strict=True))
    assert drawn[1.0] == pytest.approx(100)
    assert drawn[0.1] == pytest.approx(1 / small)


@pytest.mark.parametrize("gone", [None, 0.0])
def test_a_gradient_that_is_gone_or_not_finite_meets_no_bound(gone):
    found = load(NAME).verdict(doctored(records(1.0, 0.01), {"kept": gone}, gamma=0.1, seed=0))
    assert (found.verdict, found.value) == ("not reproduced", None)


@pytest.mark.parametrize("gamma", [0.1, 1.0])
def test_gradients_are_those_of_the_equations_written_out(gamma):
    """The LSTM with batch norm in plain float64 torch, with each state's gradient from autograd."""
    data = cached("digits")
    torch.manual_seed(1)
    net = construct(
        "lstm", "recurrent", input_shape=(1, 32, 32), num_classes=10, read="pixels", **SMALLER
    ).double()
    chosen = next(batches(len(data.train.y), 100, 1))
    pixels = adaptive_avg_pool2d(data.train.x[chosen].double(), (3, 3)).flatten(1)
    torch.manual_seed(1)
    h, c = (0.1 * torch.randn(100, 5, dtype=torch.float64) for _ in range(2))

    def normed(values):
        return gamma * (values - values.mean(0)) / (values.var(0, correction=0) + 1e-5).sqrt()

    states = []
    for step in range(9):
        h = h.requires_grad_() if step == 0 else h
        states.append(h)
        gates = normed(pixels[:, step : step + 1] @ net.from_input.weight.T) + normed(
            h @ net.from_hidden.weight.T
        )
        i, f, g, o = (gates + net.bias).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * normed(c).tanh()
    loss = cross_entropy(net.output(h), data.train.y[chosen])
    expected = [gradient.norm().item() for gradient in torch.autograd.grad(loss, states[1:])]
    (line,) = (each for each in miniature(NAME, **SMALLER) if each["gamma"] == gamma and each["seed"] == 1)
    assert line["norms"] == pytest.approx(expected, rel=1e-3)
    assert line["kept"] == line["norms"][0] / line["norms"][-1]
