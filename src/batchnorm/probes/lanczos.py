"""The largest eigenvalue of a symmetric matrix that is known by its products with vectors."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Ritz", "largest_eigenvalue"]

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Ritz:
    """An approximate eigenvalue.

    Args:
        value: v^T H v of the unit vector v that was found.
        residual: ||H v - value v||; an eigenvalue lies within this distance.
        iterations: products that built the subspace.
    """

    value: float
    residual: float
    iterations: int


def largest_eigenvalue(product: Product, start: Tensor, *, tolerance: float, max_iterations: int) -> Ritz:
    """Lanczos iteration with full reorthogonalisation.

    At most `max_iterations` products and one more for the residual. Memory: a vector an iteration.

    Args:
        product: v -> H v, for vectors like `start`.
        start: (P,), not 0; its component along the eigenvector must not be 0, which a random one has almost surely.
        tolerance: stops when the residual's estimate is at most tolerance * |value|.
        max_iterations: at least 1.

    Returns:
        The Ritz value; NaN where a product is not finite.

    Source: Golub and Van Loan 2013, "Matrix computations", algorithm 10.1.1; section 10.3 on reorthogonalisation.
    """
    basis = [start / torch.linalg.vector_norm(start)]
    diagonal: list[float] = []
    beside: list[float] = []
    noise = torch.finfo(start.dtype).eps
    while True:
        image = product(basis[-1])
        diagonal.append(torch.dot(image, basis[-1]).item())
        # Twice, since once leaves what rounding left (Giraud, Langou and Rozloznik 2005).
        for _ in range(2):
            for vector in basis:
                image = image - torch.dot(vector, image) * vector
        rest = torch.linalg.vector_norm(image).item()
        if not (math.isfinite(diagonal[-1]) and math.isfinite(rest)):
            return Ritz(math.nan, math.nan, len(basis))
        values, weights = _eigen(diagonal, beside)
        estimate = rest * abs(weights[-1, -1].item())
        scale = values.abs().max().item()
        exhausted = rest <= noise * scale or len(basis) == start.numel()
        if exhausted or estimate <= tolerance * abs(values[-1].item()) or len(basis) >= max_iterations:
            break
        beside.append(rest)
        basis.append(image / rest)
    found = torch.zeros_like(start)
    for weight, vector in zip(weights[:, -1].tolist(), basis, strict=True):
        found += weight * vector
    found /= torch.linalg.vector_norm(found)
    image = product(found)
    value = torch.dot(found, image).item()
    return Ritz(value, torch.linalg.vector_norm(image - value * found).item(), len(basis))


def _eigen(diagonal: list[float], beside: list[float]) -> tuple[Tensor, Tensor]:
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        upper = torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
        matrix = matrix + upper + upper.T
    values, vectors = torch.linalg.eigh(matrix)
    return values, vectors
