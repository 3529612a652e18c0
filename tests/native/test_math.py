"""The kernels' own exp, expm1, sigmoid and normal distribution against float64 and 50-digit arithmetic."""

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mpmath
import pytest
import torch
from torch import Tensor

from batchnorm.ops.shared_library import SharedLibrary

FUNCTIONS = ("exp", "expm1", "sigmoid", "normal_cdf", "normal_pdf")
TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

# docs/decisions/0007-vector-math.md has what was measured; these hold for every instruction set.
LARGEST_ULP = {"exp": 1.5, "expm1": 1.5, "sigmoid": 2.0, "normal_cdf": 4.0, "normal_pdf": 2.0}
LARGEST_SUBNORMAL_STEPS = 2.0

FIT = Path(__file__).parents[2] / "native" / "fit_math.py"


def call(library: SharedLibrary, name: str, x: Tensor) -> Tensor:
    y = torch.full_like(x, 7.0)
    assert (
        library.functions.bn_math(name.encode(), TYPES[x.dtype], x.data_ptr(), y.data_ptr(), x.numel()) == 0
    )
    return y


def in_float64(name: str, x: Tensor) -> Tensor:
    x = x.double()
    if name == "normal_cdf":
        return torch.special.erfc(x * -(0.5**0.5)) / 2
    if name == "normal_pdf":
        return torch.exp(x * x / -2) / (2 * torch.pi) ** 0.5
    return {"exp": torch.exp, "expm1": torch.expm1, "sigmoid": torch.sigmoid}[name](x)


def in_50_digits(name: str, x: float) -> mpmath.mpf:
    with mpmath.workdps(50):
        v = mpmath.mpf(x)
        formulas: dict[str, Callable[[], mpmath.mpf]] = {
            "exp": lambda: mpmath.exp(v),
            "expm1": lambda: mpmath.expm1(v),
            "sigmoid": lambda: 1 / (1 + mpmath.exp(-v)),
            "normal_cdf": lambda: mpmath.erfc(-v / mpmath.sqrt(2)) / 2,
            "normal_pdf": lambda: mpmath.exp(-v * v / 2) / mpmath.sqrt(2 * mpmath.pi),
        }
        return formulas[name]()


@functools.cache
def every_exponent() -> Tensor:
    """One float32 in 1021 of all bit patterns, NaN and infinities left out."""
    patterns = torch.arange(-(2**31), 2**31, 1021, dtype=torch.int64).to(torch.int32)
    x = patterns.view(torch.float32)
    return x[x.isfinite()]


@functools.cache
def expected_in_float64(name: str) -> Tensor:
    # What is beyond float32 counts as the first number that is.
    return in_float64(name, every_exponent()).clamp(-(2.0**128), 2.0**128)


@functools.cache
def doubles(name: str) -> list[float]:
    """Spread over the range of results, dense around 0, and over all smaller exponents."""
    top = 40.0 if name.startswith("normal") else 760.0
    generator = torch.Generator().manual_seed(7)
    uniform = torch.rand(4, 500, dtype=torch.float64, generator=generator) * 2 - 1
    exponents = torch.randint(-1070, 1, (500,), generator=generator).double()
    parts = (uniform[0] * top, uniform[1] * 3, uniform[2] * 0.5, uniform[3] * 2.0**exponents)
    return [float(value) for part in parts for value in part]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_over_every_exponent(library: SharedLibrary, name: str) -> None:
    x, expected = every_exponent(), expected_in_float64(name)
    y = call(library, name, x).double().clamp(-(2.0**128), 2.0**128)
    _, exponent = torch.frexp(expected)
    ulp = torch.ldexp(torch.ones_like(expected), exponent.clamp(min=-125) - 24)
    error = (y - expected).abs() / ulp
    assert not error.isnan().any()
    normal = expected.abs() >= 2.0**-126
    worst = torch.where(normal, error, 0).argmax()
    assert error[worst] <= LARGEST_ULP[name], f"{name}({x[worst].item()!r})"
    # exp and its kin below the normal numbers; expm1 of such an x is x.
    worst = torch.where(normal, 0, error).argmax()
    assert error[worst] <= LARGEST_SUBNORMAL_STEPS, f"{name}({x[worst].item()!r})"


@functools.cache
def expected_in_50_digits(name: str) -> list[mpmath.mpf]:
    return [in_50_digits(name, x) for x in doubles(name)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_against_50_digits(library: SharedLibrary, name: str) -> None:
    points = doubles(name)
    results = call(library, name, torch.tensor(points, dtype=torch.float64)).tolist()
    beyond = mpmath.mpf(2) ** 1024
    for x, y, exact in zip(points, results, expected_in_50_digits(name), strict=True):
        expected, actual = min(exact, beyond), min(mpmath.mpf(y), beyond)
        exponent = max(mpmath.frexp(expected)[1], -1021)
        error = abs(actual - expected) / mpmath.mpf(2) ** (exponent - 53)
        subnormal = abs(expected) < mpmath.mpf(2) ** -1022
        limit = LARGEST_SUBNORMAL_STEPS if subnormal else LARGEST_ULP[name]
        assert error <= limit, f"{name}({x!r}) is {y!r}, {float(error)} ulp off"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_infinities_nan_and_zero(library: SharedLibrary, name: str, dtype: torch.dtype) -> None:
    inf = torch.inf
    expected = {
        "exp": (inf, 0.0, 1.0, 1.0),
        "expm1": (inf, -1.0, 0.0, -0.0),
        "sigmoid": (1.0, 0.0, 0.5, 0.5),
        "normal_cdf": (1.0, 0.0, 0.5, 0.5),
        "normal_pdf": (0.0, 0.0, (2 * torch.pi) ** -0.5, (2 * torch.pi) ** -0.5),
    }[name]
    y = call(library, name, torch.tensor([inf, -inf, 0.0, -0.0], dtype=dtype))
    wanted = torch.tensor(expected, dtype=dtype)
    # Exact, but for the one number here that no floating point number is.
    rtol = torch.finfo(dtype).eps if name == "normal_pdf" else 0
    torch.testing.assert_close(y, wanted, rtol=rtol, atol=0)
    assert torch.equal(y.signbit(), wanted.signbit())
    largest = torch.finfo(dtype).max
    assert torch.equal(call(library, name, torch.tensor([largest, -largest], dtype=dtype)), y[:2])
    nan = torch.tensor([torch.nan, -torch.nan], dtype=dtype)
    assert call(library, name, nan).isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_halves_are_float32_rounded(library: SharedLibrary, name: str, dtype: torch.dtype) -> None:
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    expected = call(library, name, x.float()).to(dtype)
    torch.testing.assert_close(call(library, name, x), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_value_does_not_depend_on_its_place(library: SharedLibrary, name: str, dtype: torch.dtype) -> None:
    x = torch.linspace(-6, 3, 67).to(dtype)
    whole = call(library, name, x)
    for n in range(1, 34):
        y = torch.full_like(x, 7.0)
        library.functions.bn_math(name.encode(), TYPES[dtype], x[3:].data_ptr(), y.data_ptr(), n)
        assert torch.equal(y[:n], whole[3 : 3 + n])
        assert torch.equal(y[n:], torch.full_like(y[n:], 7.0)), "written past the end"


def test_unknown_names_and_types_are_refused(library: SharedLibrary) -> None:
    x = torch.zeros(4)
    assert library.functions.bn_math(b"tan", 0, x.data_ptr(), x.data_ptr(), 4) == -1
    assert library.functions.bn_math(b"exp", 9, x.data_ptr(), x.data_ptr(), 4) == -1


@pytest.mark.slow
def test_the_coefficients_are_what_the_fit_gives() -> None:
    done = subprocess.run([sys.executable, str(FIT), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
