import pytest
import torch
from torch import nn

from batchnorm.activations import NAMES, Activation, resolve

MODULES = {
    "relu": nn.ReLU(),
    "relu6": nn.ReLU6(),
    "leaky_relu": nn.LeakyReLU(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "hardswish": nn.Hardswish(),
    "elu": nn.ELU(),
}
Z = torch.cat([torch.linspace(-12, 12, 4801), torch.tensor([0.0, -0.0, 3.0, -3.0, 6.0])]).double()


def test_every_name_has_a_module() -> None:
    assert set(NAMES) == set(MODULES)


@pytest.mark.parametrize("name", NAMES)
def test_name_module_and_torch_agree_forward_and_backward(name) -> None:
    act = resolve(name)
    assert act == resolve(MODULES[name])
    z = Z.clone().requires_grad_()
    expected = MODULES[name](z)
    torch.testing.assert_close(act.forward(Z), expected.detach(), rtol=1e-12, atol=1e-14)
    grad = torch.linspace(-1, 1, len(Z)).double()
    expected.backward(grad)
    torch.testing.assert_close(act.backward(grad, Z), z.grad, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
def test_gelu_keeps_its_digits_in_the_left_tail(name) -> None:
    z = torch.linspace(-5, -2, 100)
    exact = MODULES[name](z.double())
    torch.testing.assert_close(resolve(name).forward(z).double(), exact, rtol=5e-6, atol=0)


def test_parameters_travel() -> None:
    assert resolve(nn.LeakyReLU(0.3)) == Activation("leaky_relu", 0.3)
    assert resolve(nn.ELU(0.5)) == Activation("elu", 0.5)
    assert resolve(None) is None
    assert resolve(nn.Identity()) is None


@pytest.mark.parametrize("name", NAMES)
def test_slopes_are_finite_where_powers_overflow(name) -> None:
    z = torch.tensor([-3e38, -1e20, -1e13, 1e13, 1e20, 3e38], requires_grad=True)
    (slope,) = torch.autograd.grad(resolve(name).forward(z).sum(), z)
    assert torch.isfinite(slope).all()
    torch.testing.assert_close(resolve(name).backward(torch.ones(6), z.detach()), slope)
