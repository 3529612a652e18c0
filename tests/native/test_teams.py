"""What several threads do together: each way to divide a tensor, against float64."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import batchnorm as bn

THREADS = 3
# Of 16384 values a thread at least; under a mask rows are not folded, and "inner" has one sample only.
SHAPES = {
    "folded rows": (2005, 33),
    "rows": (500, 200),
    "columns": (700, 208),
    "too long for columns": (6000, 96),
    "channels": (4, 9, 1500),
    "outer": (9, 5, 1200),
    "inner": (1, 5, 11000),
}


@pytest.fixture
def team() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def step(x: Tensor, residual: Tensor, grad: Tensor, mask: Tensor | None, act: str | None) -> list[Tensor]:
    """Output, gradients and buffers of one step, and the output of evaluation after it."""
    channels = x.size(1)
    leaves = [x, torch.linspace(0.5, 2, channels), torch.linspace(-1, 1, channels), residual]
    leaves = [leaf.to(x.dtype).requires_grad_() for leaf in leaves]
    buffers = [torch.zeros(channels, dtype=x.dtype), torch.ones(channels, dtype=x.dtype)]

    def call(training: bool) -> Tensor:
        return bn.functional.batch_norm(
            leaves[0], *buffers, *leaves[1:3], training, residual=leaves[3], mask=mask, act=act
        )

    output = call(training=True)
    grads = torch.autograd.grad(output, leaves, grad.to(x.dtype))
    return [output.detach(), *grads, *buffers, call(training=False).detach()]


@pytest.mark.parametrize("act", ["relu", "silu"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("divided", SHAPES)
def test_a_team_gives_what_the_definition_says(library, team, divided, masked, act) -> None:
    shape = SHAPES[divided]
    generator = torch.Generator().manual_seed(0)
    x, residual, grad = (torch.randn(shape, generator=generator) for _ in range(3))
    x += 0.5
    mask = torch.rand(shape[0], *shape[2:], generator=generator) < 0.7 if masked else None
    with bn.backend("native"):
        found = step(x, residual, grad, mask, act)
    with bn.backend("reference"):
        expected = step(x.double(), residual.double(), grad, mask, act)
    for mine, truth in zip(found, expected, strict=True):
        largest = truth.abs().max().item()
        torch.testing.assert_close(mine.double(), truth, rtol=0, atol=1e-6 * max(1, largest))
