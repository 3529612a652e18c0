"""How much the sums of a channel lose."""

import pytest
import torch

from batchnorm.ops import native, reference


@pytest.mark.parametrize(
    ("shape", "masked"), [((4096, 3, 2), False), ((8192, 3, 1, 3), True), ((64, 3, 200), True)]
)
def test_short_sums_lose_little(library, shape, masked) -> None:
    # float32 near 1e4 has steps of 2^-10, so that squares end at some bit and rounding them off always loses: lanes
    # of 512 values were off by 6e-7, of 16 they are by 1e-7.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) + 1e4
    mask = torch.rand(shape[0], 1, *shape[2:], generator=generator) < 0.9 if masked else None
    found, expected = native.moments(x, mask, 1), reference.moments(x.double(), mask, 1)
    torch.testing.assert_close(found.var, expected.var.double(), rtol=1.5e-7, atol=0)
