"""Layers under torch.func: ensembles that train, buffers by functional_call, and what cannot work said in words."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, jvp, stack_module_state, vmap

import batchnorm as bn
from batchnorm.errors import TransformError


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    def __init__(self, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.conv, self.first = nn.Conv2d(3, 4, 3, padding=1), bn.BatchNorm2d(4, momentum=momentum)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.last = bn.BatchNorm2d(4, momentum=momentum)

    def forward(self, x):
        x = self.first(self.conv(x), act="relu")
        return self.last(self.second(x), x, act="silu").mean((2, 3))


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_an_ensemble_trains_as_separate_models_do(backend, momentum) -> None:
    torch.manual_seed(0)
    models = [Net(momentum) for _ in range(3)]
    parameters, buffers = (
        {name: value.detach().clone() for name, value in state.items()}
        for state in stack_module_state(models)
    )
    skeleton = copy.deepcopy(models[0]).to("meta")

    def loss(parameters, buffers, x, y):
        return (functional_call(skeleton, (parameters, buffers), (x,)) - y).square().mean()

    with bn.backend(backend):
        for step in range(3):
            x, y = randn(3, 6, 3, 5, 5, seed=step), randn(3, 6, 4, seed=step + 10)
            grads = vmap(grad(loss))(parameters, buffers, x, y)
            parameters = {name: value - 0.1 * grads[name] for name, value in parameters.items()}
            for index, model in enumerate(models):
                model.zero_grad()
                (model(x[index]) - y[index]).square().mean().backward()
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter -= 0.1 * parameter.grad
    for index, model in enumerate(models):
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            found = (parameters | buffers)[name][index]
            torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5, msg=f"{name} of {index}")


def test_per_sample_gradients_in_evaluation() -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), randn(4, 3, 5, 5)
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(parameters, sample):
        return functional_call(model, parameters, (sample[None],)).square().sum()

    mapped = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for index in range(4):
        single = torch.autograd.grad(model(x[index : index + 1]).square().sum(), list(model.parameters()))
        for name, expected in zip(parameters, single, strict=True):
            torch.testing.assert_close(mapped[name][index], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_dual_numbers_go_through_a_layer_and_not_into_its_buffers(training) -> None:
    layer, x, tangent = bn.BatchNorm2d(3).train(training), randn(4, 3, 5, 5), randn(4, 3, 5, 5, seed=1)
    plain = copy.deepcopy(layer)
    with forward_ad.dual_level():
        both = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, tangent), act="silu"))
        assert all(forward_ad.unpack_dual(buffer).tangent is None for buffer in layer.buffers())
    torch.testing.assert_close(both.primal, plain(x, act="silu"))
    for buffer, expected in zip(layer.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected)

    def pure(x):
        stats = (None, None) if training else (plain.running_mean, plain.running_var)
        return bn.functional.batch_norm(x, *stats, plain.weight, plain.bias, training, act="silu")

    torch.testing.assert_close(both.tangent, jvp(pure, (x,), (tangent,))[1])


@pytest.mark.parametrize(
    "transform",
    [
        lambda f, x: grad(lambda x: f(x).sum())(x),
        lambda f, x: jacrev(f)(x),
        lambda f, x: jvp(f, (x,), (x,)),
        lambda f, x: vmap(f)(x[None]),
    ],
    ids=["grad", "jacrev", "jvp", "vmap"],
)
def test_what_did_not_get_the_buffers_says_so_and_moves_nothing(transform) -> None:
    layer, x = bn.BatchNorm1d(3), randn(5, 3)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(TransformError, match="functional_call"):
        transform(layer, x)
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in before.items())
    transform(layer.eval(), x)
    transform(bn.BatchNorm1d(3, track_running_stats=False), x)


@pytest.mark.parametrize("training", [True, False])
def test_compiled_transforms_see_the_reference(native, training) -> None:
    torch._dynamo.reset()
    xs = randn(4, 6, 3, seed=1)

    def call(x):
        stats = (None, None) if training else (torch.zeros(3), torch.ones(3))
        return bn.functional.batch_norm(x, *stats, training=training, act="relu")

    mapped = torch.compile(lambda xs: vmap(call)(xs), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(mapped(xs), torch.stack([call(x) for x in xs]))
    sloped = torch.compile(
        lambda x: grad(lambda x: call(x).pow(3).sum())(x), fullgraph=True, backend="aot_eager"
    )
    x = xs[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(call(x).pow(3).sum(), x)
    torch.testing.assert_close(sloped(xs[0]), expected)
