"""Accuracy and speed of the kernels' own exp, expm1, sigmoid, normal_cdf and normal_pdf, for each instruction set.

Run: python benchmarks/vector_math.py [--stride 97] [--points 20000]

Accuracy: units in the last place between the result and the exact one, the largest found. float32 at one of `stride`
bit patterns, against float64; float64 at `points` random numbers, against 50 digits. The normal distribution's left
tail, below -1, counts apart. Speed: nanoseconds a value, one thread, 32768 values, with torch's operators beside them.
"""

import argparse
import random

import mpmath
import torch
from torch import Tensor

from batchnorm.bench.harness import Effort, interleaved, medians
from batchnorm.ops.shared_library import require

FUNCTIONS = ("exp", "expm1", "sigmoid", "normal_cdf", "normal_pdf")
CODES = {torch.float32: 0, torch.float64: 1}
CHUNK = 2**22


def ours(name: str, x: Tensor, y: Tensor) -> Tensor:
    """Return the kernels' function of x, written to y."""
    require().functions.bn_math(name.encode(), CODES[x.dtype], x.data_ptr(), y.data_ptr(), x.numel())
    return y


def exact_float64(name: str, x: Tensor) -> Tensor:
    """Return the function in float64, exact enough to judge float32."""
    if name == "normal_cdf":
        return torch.special.erfc(x * -(0.5**0.5)) / 2
    if name == "normal_pdf":
        return torch.exp(x * x / -2) / (2 * torch.pi) ** 0.5
    return {"exp": torch.exp, "expm1": torch.expm1, "sigmoid": torch.sigmoid}[name](x)


def exact_50_digits(name: str, x: float) -> mpmath.mpf:
    """Return the function in 50 digits."""
    v = mpmath.mpf(x)
    if name == "normal_cdf":
        return mpmath.erfc(-v / mpmath.sqrt(2)) / 2
    if name == "normal_pdf":
        return mpmath.exp(-v * v / 2) / mpmath.sqrt(2 * mpmath.pi)
    if name == "sigmoid":
        return 1 / (1 + mpmath.exp(-v))
    return {"exp": mpmath.exp, "expm1": mpmath.expm1}[name](v)


def float32_errors(name: str, stride: int) -> dict[str, float]:
    """Return the largest error of normal results, of subnormal ones, and of normal_cdf's left tail."""
    largest = {"": 0.0, "tail": 0.0, "subnormal": 0.0}
    for begin in range(-(2**31), 2**31, CHUNK * stride):
        patterns = torch.arange(begin, min(begin + CHUNK * stride, 2**31), stride)
        x = patterns.to(torch.int32).view(torch.float32)
        x = x[x.isfinite()]
        expected = exact_float64(name, x.double()).clamp(-(2.0**128), 2.0**128)
        y = ours(name, x, torch.empty_like(x)).double().clamp(-(2.0**128), 2.0**128)
        exponent = torch.frexp(expected)[1].clamp(min=-125)
        error = (y - expected).abs() / torch.ldexp(torch.ones_like(expected), exponent - 24)
        normal = expected.abs() >= 2.0**-126
        tail = normal & (x < -1) & (name == "normal_cdf")
        for key, chosen in (("", normal & ~tail), ("tail", tail), ("subnormal", ~normal)):
            if chosen.any():
                largest[key] = max(largest[key], error[chosen].max().item())
    return largest


def float64_errors(name: str, points: list[float], expected: list[mpmath.mpf]) -> dict[str, float]:
    """Return the same for float64."""
    largest = {"": 0.0, "tail": 0.0, "subnormal": 0.0}
    x = torch.tensor(points, dtype=torch.float64)
    for v, y, value in zip(points, ours(name, x, torch.empty_like(x)).tolist(), expected, strict=True):
        exponent = max(mpmath.frexp(value)[1], -1021)
        error = float(abs(mpmath.mpf(y) - value) / mpmath.mpf(2) ** (exponent - 53))
        key = "tail" if name == "normal_cdf" and v < -1 else ""
        key = "subnormal" if abs(value) < mpmath.mpf(2) ** -1022 else key
        largest[key] = max(largest[key], error)
    return largest


def random_points(name: str, count: int) -> list[float]:
    """Return numbers over the range of finite results, around 0, and near 0."""
    draw = random.Random(0)
    top = 39.0 if name.startswith("normal") else 709.0
    spans = (top, 3.0, 0.5, 2.0**-30)
    return [draw.uniform(-1, 1) * spans[i % len(spans)] for i in range(count)]


def print_accuracy(isas: tuple[str, ...], stride: int, count: int) -> None:
    """Print one Markdown row for each function and part of its range."""
    print("| function | " + " | ".join(f"{isa} float32 | float64" for isa in isas) + " |")
    print("|---" * (1 + 2 * len(isas)) + "|")
    for name in FUNCTIONS:
        points = random_points(name, count)
        expected = [exact_50_digits(name, x) for x in points]
        columns = []
        for isa in isas:
            require().functions.bn_use_isa(isa.encode())
            columns += [float32_errors(name, stride), float64_errors(name, points, expected)]
        for key in columns[0]:
            if any(column[key] for column in columns):
                numbers = " | ".join(f"{column[key]:.2f}" for column in columns)
                print(f"| {name} {key} | {numbers} |", flush=True)


def print_speed(isas: tuple[str, ...]) -> None:
    """Print one Markdown row for each function and operator."""
    print("\n| ns a value | float32 | float64 |\n|---|---|---|")
    aten = torch.ops.aten
    rows: dict[str, list[float]] = {}
    for dtype in CODES:
        x = torch.linspace(-4, 4, 32768, dtype=dtype)
        y = torch.empty_like(x)
        calls = {
            "torch exp": lambda x=x, y=y: torch.exp(x, out=y),
            "torch expm1": lambda x=x, y=y: torch.expm1(x, out=y),
            "torch sigmoid": lambda x=x, y=y: torch.sigmoid(x, out=y),
            "torch silu": lambda x=x, y=y: aten.silu.out(x, out=y),
            "torch gelu": lambda x=x, y=y: aten.gelu.out(x, out=y),
        }
        for name, seconds in medians(interleaved(calls, Effort())).items():
            rows.setdefault(name, []).append(seconds / x.numel() * 1e9)
        for isa in isas:
            require().functions.bn_use_isa(isa.encode())
            calls = {f"{isa} {name}": lambda name=name, x=x, y=y: ours(name, x, y) for name in FUNCTIONS}
            for name, seconds in medians(interleaved(calls, Effort())).items():
                rows.setdefault(name, []).append(seconds / x.numel() * 1e9)
    for name, numbers in rows.items():
        print(f"| {name} | " + " | ".join(f"{number:.2f}" for number in numbers) + " |")


def main() -> None:
    """Print two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stride", type=int, default=97, help="of the float32 bit patterns")
    parser.add_argument("--points", type=int, default=20000, help="in float64")
    options = parser.parse_args()
    torch.set_num_threads(1)
    mpmath.mp.dps = 50
    library = require()
    before = library.isa
    print_accuracy(library.isas, options.stride, options.points)
    print_speed(library.isas)
    library.functions.bn_use_isa(before.encode())


if __name__ == "__main__":
    main()
