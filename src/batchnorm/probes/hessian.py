"""The largest curvature of the loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from batchnorm.errors import ArgumentError
from batchnorm.probes.evaluation import Loss, attached, evaluate, isolated, trainable
from batchnorm.probes.lanczos import largest_eigenvalue

__all__ = ["HessianEigenvalue", "top_hessian_eigenvalue"]


@dataclass(frozen=True)
class HessianEigenvalue:
    """The largest eigenvalue of the Hessian of the loss, by sign and not by magnitude.

    Args:
        value: the eigenvalue; NaN where loss or derivatives are not finite.
        residual: ||H v - value v|| of the unit vector that was found: an eigenvalue lies within this distance.
        iterations: of Lanczos.
        converged: whether residual <= tolerance * |value|.
    """

    value: float
    residual: float
    iterations: int
    converged: bool


def top_hessian_eigenvalue(
    model: nn.Module, loss: Loss, *, tolerance: float = 1e-3, max_iterations: int = 50, seed: int = 0
) -> HessianEigenvalue:
    """The largest eigenvalue of the Hessian of the loss, over the parameters that require a gradient.

    max over unit v of v^T H v,  H = d^2 L / d theta^2

    One forward pass, one backward pass that is itself differentiated, and a backward pass for each iteration and the
    residual. Memory: the graphs of both, and a vector as long as the parameters an iteration, in float32 or wider.
    Through batch norm in training mode it is exact, the batch's statistics being part of the graph.

    Args:
        model: runs in the modes its modules are in; put back as it was, also when a pass raises.
        loss: model -> tensor with one value, that can be differentiated twice.
        tolerance: the iteration ends when the residual is at most this share of the eigenvalue.
        max_iterations: at least 1; ends it in any case.
        seed: of the start vector, which does not touch the global generators.

    Returns:
        `HessianEigenvalue`. Where `converged` is False take more iterations, or float64, whose derivatives have less
        noise.

    Raises:
        ArgumentError: (ValueError) tolerance is not positive, max_iterations is below 1; and as for `gradient_norms`.
        ArgumentTypeError: (TypeError) an argument is of another type.
        RuntimeError: torch's, from an operator of the model that has no second derivative, such as cuDNN's LSTM.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from batchnorm import probes
        >>> model = nn.Linear(2, 1, bias=False).double()
        >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        >>> found = probes.top_hessian_eigenvalue(model, lambda model: model(x).square().sum() / 2)
        >>> round(found.value, 6), found.converged
        (9.0, True)

    Source: Ghorbani, Krishnan and Xiao 2019, arXiv:1901.10159, for Lanczos on products of
    Pearlmutter 1994, "Fast exact multiplication by the Hessian".
    """
    parameters = list(trainable(model).values())
    if not tolerance > 0:
        raise ArgumentError(f"tolerance: expected a positive number, got {tolerance}")
    if max_iterations < 1:
        raise ArgumentError(f"max_iterations: expected 1 or more, got {max_iterations}")
    with isolated(model):
        value = attached(evaluate(model, loss))
        gradients = torch.autograd.grad(
            value, parameters, create_graph=True, allow_unused=True, materialize_grads=True
        )
        start = _start(parameters, seed)
        ritz = largest_eigenvalue(
            lambda vector: _product(gradients, parameters, vector),
            start,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
    converged = ritz.residual <= tolerance * abs(ritz.value)
    return HessianEigenvalue(ritz.value, ritz.residual, ritz.iterations, converged)


def _start(parameters: Sequence[Tensor], seed: int) -> Tensor:
    size = sum(parameter.numel() for parameter in parameters)
    dtype = torch.float32
    for parameter in parameters:
        dtype = torch.promote_types(dtype, parameter.dtype)
    # Drawn on the CPU, so that every device starts at the same vector.
    drawn = torch.randn(size, dtype=dtype, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    return drawn.to(parameters[0].device)


def _product(gradients: Sequence[Tensor], parameters: Sequence[Tensor], vector: Tensor) -> Tensor:
    """H v, as the gradient of the gradient's product with v."""
    parts = vector.split([parameter.numel() for parameter in parameters])
    curved = [
        (gradient, part.view_as(parameter).to(gradient))
        for gradient, part, parameter in zip(gradients, parts, parameters, strict=True)
        if gradient.requires_grad  # others are constant: their rows of the Hessian are 0
    ]
    if not curved:
        return torch.zeros_like(vector)
    outputs, directions = zip(*curved, strict=True)
    rows = torch.autograd.grad(
        outputs, parameters, directions, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([row.detach().reshape(-1).to(vector) for row in rows])
