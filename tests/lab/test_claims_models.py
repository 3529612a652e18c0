"""The networks of the claims: shapes, first weights, second moments and norms, each against its formula."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import batchnorm as bn
from batchnorm.errors import ModelError, UsageError
from batchnorm.lab import models
from batchnorm.lab.models.joins import join

NORMS = ("none", "batch", "group", "layer", "renorm", "ghost")


def images(size, samples=20, channels=1):
    return torch.randn(samples, channels, size, size, generator=torch.Generator().manual_seed(0))


def count(net):
    return sum(p.numel() for p in net.parameters())


def second_moments(blocks, x):
    """Of the output of each block, in float64."""
    found = []
    with torch.no_grad():
        for block in blocks:
            x = block(x)
            found.append(x.double().square().mean().item())
    return found


BUILDERS = {
    "sigmoid_net": lambda norm: (models.sigmoid_net(norm), torch.randn(20, 64), (20, 10)),
    "ball_net": lambda norm: (models.ball_net(norm), torch.randn(20, 10), (20, 1)),
    "deep_linear": lambda norm: (models.deep_linear(norm), torch.randn(20, 10), (20, 10)),
    "stack": lambda norm: (models.stack(6, 48, norm), torch.randn(20, 48), (20, 48)),
    "residual_stack": lambda norm: (
        models.residual_stack(3, norm, width=48, inputs=64, num_classes=7),
        images(8),
        (20, 7),
    ),
    "residual_net": lambda norm: (models.residual_net(3, norm), images(8), (20, 10)),
    "residual_net, 28x28": lambda norm: (
        models.residual_net(4, norm, widths=(8, 16), input_shape=(1, 28, 28), stride=2),
        images(28),
        (20, 10),
    ),
    "ex1": lambda norm: (models.walkthrough("ex1", norm, num_classes=5), images(28, channels=3), (20, 5)),
    "ex2": lambda norm: (models.walkthrough("ex2", norm, num_classes=5), images(28, channels=3), (20, 5)),
    "flattened": lambda norm: (
        models.walkthrough("flattened", norm, num_classes=5),
        images(28, 20, 3),
        (20, 5),
    ),
    "vgg": lambda norm: (
        models.construct("vgg", norm, input_shape=(1, 8, 8), num_classes=10, convs=3),
        images(8),
        (20, 10),
    ),
    "resnet": lambda norm: (
        models.construct("resnet", norm, input_shape=(1, 8, 8), num_classes=10, depth=14, stride=1),
        images(8),
        (20, 10),
    ),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", BUILDERS)
def test_every_network_takes_every_norm_and_gradients_reach_all_weights(name, norm):
    torch.manual_seed(0)
    net, x, shape = BUILDERS[name](norm)
    output = net(x)
    assert output.shape == shape
    (output * torch.randn_like(output)).sum().backward()
    # A bias in front of batch norm has gradient 0 up to rounding; every other parameter must move.
    reached = [p for p in net.parameters() if p.grad is not None and torch.isfinite(p.grad).all()]
    assert len(reached) == len(list(net.parameters()))
    assert all(p.grad.abs().max() > 0 for n, p in net.named_parameters() if n.endswith("weight"))


@pytest.mark.parametrize("name", BUILDERS)
def test_weights_outside_norms_follow_the_seed_and_not_the_norm(name):
    def draw(norm, seed):
        torch.manual_seed(seed)
        net = BUILDERS[name](norm)[0]
        linear = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        return torch.cat([p.detach().flatten() for m in linear for p in m.parameters()])

    assert torch.equal(draw("none", 1), draw("batch", 1))
    assert torch.equal(draw("batch", 1), draw("batch", 1))
    assert not torch.equal(draw("batch", 1), draw("batch", 2))


def test_the_sigmoid_net_is_that_of_the_paper():
    torch.manual_seed(0)
    net = models.sigmoid_net("batch", inputs=784)
    weights = torch.cat([m.weight.detach().flatten() for m in net.modules() if isinstance(m, nn.Linear)])
    # The standard error of a standard deviation is std / sqrt(2 n).
    assert abs(weights.double().std().item() - 0.1) < 5 * 0.1 / math.sqrt(2 * len(weights))
    assert abs(weights.double().mean().item()) < 5 * 0.1 / math.sqrt(len(weights))
    assert all((m.bias == 0).all() for m in net.modules() if isinstance(m, nn.Linear))
    x = torch.randn(60, 784)
    expected = x
    for layer in net.hidden:
        expected = torch.sigmoid(F.batch_norm(expected @ layer.linear.weight.T, None, None, training=True))
    torch.testing.assert_close(net(x), expected @ net.output.weight.T, atol=1e-5, rtol=1e-5)
    assert count(models.sigmoid_net()) == 64 * 100 + 100 + 2 * (100 * 100 + 100) + 100 * 10 + 10


def test_activations_of_the_ball_net_shrink_as_published():
    torch.manual_seed(13)
    x = torch.randn(1000, 10)
    x = x / x.norm(dim=1, keepdim=True) * torch.rand(1000, 1) ** (1 / 10) * math.sqrt(10)

    def stds(net):
        found, value = [], x
        with torch.no_grad():
            for layer in net.hidden:
                hidden = layer.activation(layer.linear(value))
                value = layer.norm(hidden)
                found.append(hidden.double().std().item())
        return found

    small, kaiming = stds(models.ball_net()), stds(models.ball_net(init="kaiming"))
    normed = stds(models.ball_net("batch"))
    # A layer multiplies the second moment by 100 * .1^2 / 2.
    assert small[4] / small[0] == pytest.approx(0.5 ** (4 / 2), rel=0.35)
    assert kaiming[4] / kaiming[0] == pytest.approx(1, rel=0.35)
    assert normed[4] / normed[0] > 1
    norms = [m for m in models.ball_net("batch").modules() if isinstance(m, bn.BatchNorm1d)]
    assert len(norms) == 5
    assert all(norm.weight is None for norm in norms)
    assert count(models.ball_net("batch")) == 10 * 100 + 100 + 4 * (100 * 100 + 100) + 100 + 1


def test_kaiming_bounds_of_the_ball_net():
    torch.manual_seed(0)
    weight = models.ball_net(init="kaiming").hidden[2].linear.weight
    bound = math.sqrt(6 / 100)
    assert 0.99 * bound < weight.abs().max().item() <= bound


def test_the_deep_linear_net_is_a_product_of_matrices():
    torch.manual_seed(0)
    net, x = models.deep_linear().double(), torch.randn(1000, 10, dtype=torch.float64)
    product = torch.eye(10, dtype=torch.float64)
    for weight in net.parameters():
        product = weight @ product
    torch.testing.assert_close(net(x), x @ product.T)
    assert [tuple(p.shape) for p in net.parameters()] == [(10, 10)] * 25
    weights = torch.cat([p.detach().flatten() for p in net.parameters()])
    bound = math.sqrt(6 / 20)
    assert 0.99 * bound < weights.abs().max().item() <= bound
    # 2500 draws of variance 2 / 20; that of a uniform's square is 4/45 bound^4.
    assert weights.square().mean().item() == pytest.approx(0.1, abs=5 * 0.3 * bound**2 / 50)
    normed = models.deep_linear("batch")
    assert sum(isinstance(m, bn.BatchNorm1d) for m in normed.modules()) == 24
    assert isinstance(list(normed.children())[-1], nn.Linear)


@pytest.mark.parametrize(("activation", "gain"), [("relu", 2), ("linear", 1)])
def test_a_stack_without_norm_keeps_the_second_moment(activation, gain):
    torch.manual_seed(0)
    net = models.stack(4, 512, "none", activation=activation)
    weights = torch.cat([p.detach().flatten() for p in net.parameters()]).double()
    assert weights.square().mean().item() == pytest.approx(gain / 512, rel=0.01)
    # In the mean over weights: relu leaves half of a symmetric value's, which the gain makes up for.
    last = [
        second_moments(models.stack(4, 64, "none", activation=activation), torch.randn(64, 64))[-1]
        for _ in range(200)
    ]
    assert sum(last) / len(last) == pytest.approx(1, rel=0.1)


def test_a_stack_is_linear_norm_activation():
    torch.manual_seed(0)
    net, x = models.stack(2, 8, "batch"), torch.randn(30, 8)
    expected = x
    for weight in (net[0].linear.weight, net[1].linear.weight):
        expected = F.relu(F.batch_norm(expected @ weight.T, None, None, training=True))
    torch.testing.assert_close(net(x), expected, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(m, nn.ReLU) for m in models.stack(2, 8, activation="linear").modules())


def test_moments_of_residual_stacks_by_depth():
    torch.manual_seed(0)
    x = torch.randn(128, 256)
    x = x / x.square().mean().sqrt()

    def by_depth(norm, kind):
        # The formulas are means over the weights; one draw is off by several per cent.
        draws = [
            second_moments(models.residual_stack(6, norm, width=256, kind=kind).blocks, x) for _ in range(30)
        ]
        return torch.tensor(draws).mean(0).tolist()

    depths = range(1, 7)
    assert by_depth("none", "plain") == pytest.approx([2**depth for depth in depths], rel=0.06)
    assert by_depth("batch", "plain") == pytest.approx([depth + 1 for depth in depths], rel=0.03)
    assert by_depth("none", "rescale") == pytest.approx([1] * 6, rel=0.03)
    assert by_depth("none", "halved") == pytest.approx([1] * 6, rel=0.06)
    assert by_depth("none", "skipinit") == pytest.approx([1] * 6, rel=1e-6)


def test_the_constants_of_the_joins():
    x, f = torch.full((3,), 2.0, dtype=torch.float64), torch.full((3,), 5.0, dtype=torch.float64)
    assert join("plain", 1, 4)(x, f).tolist() == [7.0] * 3
    assert join("halved", 1, 4)(x, f).tolist() == pytest.approx([7 / math.sqrt(2)] * 3)
    assert join("skipinit", 1, 4, 0.5)(x, f).tolist() == [4.5] * 3
    assert join("rescale", 3, 4)(x, f).tolist() == pytest.approx(
        [math.sqrt(6 / 7) * 2 + math.sqrt(1 / 7) * 5] * 3
    )
    # What is left of the first signal behind L blocks: the product of 1 - 1 / (l + L) is 1/2 for any L.
    for blocks in (1, 7, 64):
        shares = [join("rescale", number, blocks).skip ** 2 for number in range(1, blocks + 1)]
        assert math.prod(shares) == pytest.approx(0.5)


def test_alpha_of_skipinit_is_learned_and_starts_where_told():
    net = models.residual_net(3, "none", kind="skipinit", alpha=1.0)
    alphas = {name: p for name, p in net.named_parameters() if name.endswith("alpha")}
    assert sorted(alphas) == [f"blocks.{n}.join.alpha" for n in range(3)]
    assert all(p.item() == 1 for p in alphas.values())
    plain = models.residual_net(3, "none")
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.endswith("alpha")})
    torch.testing.assert_close(net(images(8)), plain(images(8)))
    closed = models.residual_net(3, "none", kind="skipinit")
    closed.load_state_dict(plain.state_dict(), strict=False)
    x = images(8)
    torch.testing.assert_close(closed(x), closed.head(closed.stem(x)))


def test_a_block_of_the_residual_net():
    torch.manual_seed(0)
    net = models.residual_net(1, "batch")
    x = images(8)
    start = net.stem(x)

    def normed(value):
        return F.relu(F.batch_norm(value, None, None, training=True))

    branch = net.blocks[0].branch
    inner = branch[5](normed(branch[2](normed(start))))
    expected = net.head[4](normed(start + inner).mean((2, 3)))
    torch.testing.assert_close(net(x), expected, atol=1e-5, rtol=1e-4)
    weight = torch.cat([m.weight.detach().flatten() for m in branch if isinstance(m, nn.Conv2d)])
    assert weight.double().square().mean().item() == pytest.approx(2 / (16 * 9), rel=0.1)


def test_stages_of_the_residual_net():
    net = models.residual_net(7, "none", widths=(4, 8, 16), input_shape=(3, 32, 32))
    outs = [block.branch[5].out_channels for block in net.blocks]
    assert outs == [4, 4, 4, 8, 8, 16, 16]
    shapes = []
    for block in net.blocks:
        block.register_forward_hook(lambda m, i, o: shapes.append(o.shape[2]))
    net(images(32, 2, 3))
    assert shapes == [32, 32, 32, 16, 16, 8, 8]
    assert count(models.residual_net(128, "none")) == 128 * 2 * (16 * 16 * 9 + 16) + 9 * 16 + 16 + 170


@pytest.mark.parametrize(
    ("example", "shape"), [("ex1", (9, 16, 14, 14)), ("ex2", (9, 8, 7, 7)), ("flattened", (9, 24))]
)
def test_the_walkthrough_has_the_printed_shapes(example, shape):
    assert models.walkthrough(example)(images(28, 9, 3)).shape == shape


def test_the_flattened_example_is_as_printed():
    net, x = models.walkthrough("flattened"), images(28, 9, 3)
    printed = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.Flatten(start_dim=1),
        nn.ReLU(),
        nn.Linear(16 * 28 * 28, 24),
        nn.BatchNorm1d(24),
        nn.ReLU(),
    )
    for ours, theirs in zip(net.parameters(), printed.parameters(), strict=True):
        theirs.data.copy_(ours)
    torch.testing.assert_close(net(x), printed(x), atol=1e-5, rtol=1e-4)


def test_noisy_batch_norm_draws_from_the_published_distributions():
    torch.manual_seed(0)
    layer = models.Noisy(nn.Identity())
    x = torch.stack([torch.zeros(4000, 50), torch.ones(4000, 50)])
    shifts, scales = [], []
    for _ in range(40):
        state = torch.get_rng_state()
        m = layer(x[0]).double()
        torch.set_rng_state(state)
        s = layer(x[1]).double() - m
        shifts.append(m)
        scales.append(s)
    mu = torch.stack([m.mean(0) for m in shifts])  # 2000 units
    sigma = torch.stack([s.mean(0) for s in scales])
    within = torch.stack([(m - m.mean(0)) for m in shifts])
    assert mu.abs().max().item() == pytest.approx(0.5, abs=0.01)
    assert mu.var().item() == pytest.approx(1 / 12, rel=0.1)
    assert 0.99 < sigma.min().item() < 1.01
    assert 1.24 < sigma.max().item() < 1.26
    assert sigma.mean().item() == pytest.approx(1.125, abs=0.01)
    assert within.abs().max().item() == pytest.approx(0.1, abs=0.01)
    assert within.var().item() == pytest.approx(0.2**2 / 12, rel=0.02)
    assert torch.stack([s.std(0) for s in scales]).mean().item() == pytest.approx(0.1, rel=0.02)


def test_noise_is_a_channels_and_a_samples_and_absent_in_evaluation():
    torch.manual_seed(0)
    layer, x = models.noisy()(3, 4), images(5, 6, 3)
    normed = F.batch_norm(x, None, None, training=True)
    y = layer(x)
    for sample in range(6):
        for channel in range(3):
            a, b = normed[sample, channel].flatten().double(), y[sample, channel].flatten().detach().double()
            scale = ((a - a.mean()) * (b - b.mean())).sum() / (a - a.mean()).square().sum()
            torch.testing.assert_close(b - b.mean(), scale * (a - a.mean()), atol=1e-5, rtol=1e-4)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer.norm(x))
    net = models.construct("vgg", models.noisy(), input_shape=(1, 8, 8), num_classes=10)
    assert sum(isinstance(m, models.Noisy) for m in net.modules()) == 6


def test_depth_of_vgg_and_size_of_resnet():
    net = models.construct("vgg", "none", input_shape=(1, 32, 32), num_classes=10, convs="5", widths="4,8")
    assert [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)] == [4] * 5 + [8] * 5
    with pytest.raises(ModelError, match="at least 5x5, the data gives 4x4"):
        models.construct("resnet", input_shape=(1, 4, 4), num_classes=10, stride=1)


@pytest.mark.parametrize("gamma", [0.1, 1.0])
def test_the_reader_of_pixels_shows_the_gradient_of_each_state(gamma):
    torch.manual_seed(0)
    net = models.construct(
        "lstm",
        "recurrent",
        input_shape=(1, 8, 8),
        num_classes=10,
        read="pixels",
        hidden=6,
        gamma=gamma,
        noise=0.1,
    )
    assert all((norm.weight == gamma).all() for norm in (net.norm_ih, net.norm_hh, net.norm_c))
    states = []

    def keep(_, inputs):
        states.append(inputs[0].requires_grad_() if not states else inputs[0])
        states[-1].retain_grad()

    net.from_hidden.register_forward_pre_hook(keep)
    F.cross_entropy(net(images(8)), torch.arange(20) % 10).backward()
    assert len(states) == 64
    assert all(state.grad is not None and state.grad.norm() > 0 for state in states)
    assert states[0].std().item() == pytest.approx(0.1, rel=0.25)
    assert torch.equal(net.from_hidden.weight[12:18], torch.eye(6))
    states.clear()
    net.eval()(images(8))
    assert (states[0] == 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.walkthrough("ex3"), "expected one of ex1, ex2, flattened, got 'ex3'"),
        (lambda: models.ball_net(init="zeros"), "expected one of normal, kaiming, got 'zeros'"),
        (lambda: models.stack(2, 4, activation="tanh"), "expected one of relu, linear, got 'tanh'"),
        (lambda: models.residual_net(2, kind="skip"), "expected one of plain, skipinit, halved, rescale"),
        (lambda: models.sigmoid_net("bach"), "unknown arm 'bach'"),
        (
            lambda: models.construct("resnet", input_shape=(1, 8, 8), num_classes=2, stride="3"),
            "expected 1 or 2, got '3'",
        ),
        (
            lambda: models.construct("lstm", input_shape=(1, 8, 8), num_classes=2, noise="-1"),
            "expected a number from 0, got '-1'",
        ),
        (
            lambda: models.construct("vgg", "batch", "middle", input_shape=(1, 8, 8), num_classes=2),
            "expected before or after, got 'middle'",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(UsageError) as caught:
        make()
    assert message in str(caught.value)
