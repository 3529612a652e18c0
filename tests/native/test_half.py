"""Half precision: every length of a run, and the numbers that rounding might lose."""

import pytest
import torch

from batchnorm.activations import resolve
from batchnorm.ops import Affine, native, reference

HALVES = [torch.bfloat16, torch.float16]
# A tie to even and one to odd, NaN, infinities, what rounds to infinity, and denormals.
SPECIAL = (
    1 + 2**-8,
    1 + 3 * 2**-8,
    float("nan"),
    float("inf"),
    -float("inf"),
    3.4e38,
    1e-39,
    -9.2e-41,
    6e-8,
    -0.0,
)


def rows(dtype: torch.dtype, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(3, 2, length, generator=generator)
    x.view(-1)[: len(SPECIAL)] = torch.tensor(SPECIAL)[: x.numel()]
    return x.to(dtype)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("masked", [False, True])
def test_every_length_is_rounded_as_torch_rounds(library, dtype, masked) -> None:
    # x + bias in float32 needs rounding, and is what comes out where mean is 0 and var 1.
    bias = torch.tensor([0.0, 2**-9])
    mean, var = torch.zeros(2), torch.ones(2)
    for length in [*range(2, 70), 95, 96, 97, 130]:
        x = rows(dtype, length)
        mask = torch.arange(3 * length).view(3, 1, length) % 3 != 1 if masked else None
        found, _ = native.evaluate(x, mean, var, Affine(bias=bias, mask=mask), 0.0, 1)
        expected = (x.float() + bias.view(1, 2, 1)).to(dtype)
        if mask is not None:
            expected = torch.where(mask, expected, torch.zeros((), dtype=dtype))
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("act", [None, "silu"])
def test_sums_take_every_value_once(library, dtype, masked, act) -> None:
    for length in [*range(2, 70), 95, 130]:
        x = torch.randn(3, 2, length, generator=torch.Generator().manual_seed(length)).to(dtype)
        mask = torch.arange(3 * length).view(3, 1, length) % 3 != 1 if masked else None
        found, expected = native.moments(x, mask, 1), reference.moments(x.double(), mask, 1)
        torch.testing.assert_close(found.mean, expected.mean.double(), rtol=0, atol=1e-7)
        torch.testing.assert_close(found.var, expected.var.double(), rtol=1e-6, atol=0)
        affine = Affine(mask=mask, act=resolve(act))
        invstd = torch.rsqrt(found.var + 1e-5)
        sums = native.grad_moments(x.flip(0), x, found.mean, invstd, affine, 1)
        exact = reference.grad_moments(x.flip(0).double(), x.double(), found.mean, invstd, affine, 1)
        for one, other in zip(sums, exact, strict=True):
            torch.testing.assert_close(one, other.double(), rtol=2e-6, atol=1e-5)
