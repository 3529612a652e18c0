"""Identities of the papers, in float64: they hold to rounding or the gradient is wrong."""

import torch

import batchnorm as bn
from batchnorm.ops import Affine, reference


def test_theorem_4_1_of_santurkar_at_operator_level() -> None:
    """||dL/dy||^2 = gamma^2/sigma^2 (||g||^2 - <1,g>^2/m - <g,yhat>^2/m), and dL/dy is orthogonal to 1 and to yhat."""
    torch.manual_seed(0)
    m, channels = 32, 5
    y, g = (
        torch.randn(m, channels, dtype=torch.float64) * 3 + 2,
        torch.randn(m, channels, dtype=torch.float64),
    )
    gamma = torch.rand(channels, dtype=torch.float64) + 0.5
    batch = reference.moments(y, None, 1)
    invstd = batch.var.rsqrt()  # eps = 0
    affine = Affine(weight=gamma)
    sum_dy, sum_dy_xmu = reference.grad_moments(g, y, batch.mean, invstd, affine, 1)
    grad, _ = reference.grad_input(g, y, batch.mean, invstd, affine, 1, (sum_dy / m, sum_dy_xmu / m))
    yhat = reference.normalize(y, batch.mean, invstd, Affine(), 1)
    expected = (gamma**2 / batch.var) * (g.square().sum(0) - g.sum(0) ** 2 / m - (g * yhat).sum(0) ** 2 / m)
    torch.testing.assert_close(grad.square().sum(0), expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(grad.sum(0), torch.zeros(channels, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(
        (grad * yhat).sum(0), torch.zeros(channels, dtype=torch.float64), rtol=0, atol=1e-13
    )


def test_scale_law_of_ioffe_and_szegedy() -> None:
    """BN((aW)u) = BN(Wu), and d BN((aW)u) / d(aW) = (1/a) d BN(Wu) / dW."""
    torch.manual_seed(1)
    u = torch.randn(16, 6, dtype=torch.float64)
    weight = torch.randn(4, 6, dtype=torch.float64)
    g = torch.randn(16, 4, dtype=torch.float64)
    results = []
    for a in (1.0, 10.0):
        scaled = (a * weight).requires_grad_()
        out = bn.functional.batch_norm(u @ scaled.T, None, None, training=True, eps=1e-300)
        (grad,) = torch.autograd.grad(out, scaled, g)
        results.append((out.detach(), grad))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(results[1][1], results[0][1] / 10.0, rtol=1e-11, atol=1e-14)
