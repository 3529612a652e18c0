"""Fit the polynomials of math.h and write them to math_coefficients.h: `python native/fit_math.py`.

Minimax fits (Remez exchange) of the relative error, in 50-digit arithmetic, then rounded to the type. `--check` writes
nothing and fails if the header differs from what the fit gives. Needs mpmath, which PyTorch brings along through sympy.
"""

import argparse
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mpmath
from mpmath import mp, mpf

HEADER = Path(__file__).with_name("math_coefficients.h")
GRID = 1500
CENTRAL = mpf(1)  # |v| up to which normal_cdf is 1/2 plus a polynomial

Real = mpf
Function = Callable[[Real], Real]


@dataclass(frozen=True)
class Format:
    """A floating point type: its C++ name, mantissa bits, lowest exponent, and the sizes of the fits that it needs."""

    name: str
    digits: int
    mantissa: int
    minimum_exponent: int  # of a subnormal number
    bias: int
    high_bits: int  # of ln2_high: times any n, still exact
    exp_degree: int
    central_degree: int
    mills_degree: int
    suffix: str

    def rounded(self, value: Real) -> Real:
        return round_to(value, self.mantissa)

    def literal(self, value: Real) -> str:
        text = mpmath.nstr(value, self.digits, strip_zeros=True, min_fixed=-3, max_fixed=7)
        return text + self.suffix

    @property
    def half_ln2(self) -> Real:
        """|r| after the reduction: a little more than ln(2)/2, since n is chosen in rounded arithmetic."""
        return mp.log(2) / 2 * mpf("1.0003")

    @property
    def tail_end(self) -> Real:
        """Where the normal density, and so its tail, rounds to 0; rounded up to a half."""
        smallest = mp.ldexp(mp.sqrt(2 * mp.pi), self.minimum_exponent - 1)
        return mp.ceil(2 * mp.sqrt(-2 * mp.log(smallest))) / 2


FLOAT = Format("float", 9, 24, -149, 127, 15, 6, 5, 4, "f")
DOUBLE = Format("double", 17, 53, -1074, 1023, 41, 11, 9, 9, "")


def round_to(value: Real, bits: int) -> Real:
    with mp.workprec(bits):
        return +value


def horner(coefficients: list[Real], x: Real) -> Real:
    result = mpf(0)
    for coefficient in reversed(coefficients):
        result = result * x + coefficient
    return result


def mills_ratio(t: Real) -> Real:
    return mp.sqrt(mp.pi / 2) * mp.exp(t * t / 2) * mp.erfc(t / mp.sqrt(2))


def alternating_extrema(errors: list[Real], wanted: int) -> list[int]:
    """The largest error of each run of equal signs; while there are too many, the smaller end is dropped."""
    found: list[int] = []
    for i, error in enumerate(errors):
        if found and (error > 0) == (errors[found[-1]] > 0):
            if abs(error) > abs(errors[found[-1]]):
                found[-1] = i
        else:
            found.append(i)
    while len(found) > wanted:
        found.pop(0 if abs(errors[found[0]]) < abs(errors[found[-1]]) else -1)
    if len(found) < wanted:
        raise ArithmeticError(f"the error alternates {len(found)} times, a minimax fit needs {wanted}")
    return found


def exchange(
    solve: Callable[[list[Real]], tuple[Function, Real]],
    error: Callable[[Function, Real], Real],
    grid: list[Real],
    points: list[Real],
) -> Function:
    """Remez: fit so that the error is equal and alternating on `points`, move them to its extrema, until they stay."""
    for _ in range(40):
        fitted, level = solve(points)
        errors = [error(fitted, x) for x in grid]
        if max(map(abs, errors)) < abs(level) * mpf("1.01"):
            return fitted
        points = [grid[i] for i in alternating_extrema(errors, len(points))]
    raise ArithmeticError("Remez exchange does not settle")


def chebyshev(count: int) -> list[Real]:
    return [-mp.cos(mp.pi * i / (count - 1)) for i in range(count)]


def fit_polynomial(f: Function, weight: Function, grid: list[Real], points: list[Real]) -> list[Real]:
    """A polynomial with one coefficient less than there are points, the error divided by a positive weight."""
    count = len(points) - 1
    coefficients: list[Real] = []

    def solve(points: list[Real]) -> tuple[Function, Real]:
        matrix, right = mp.matrix(count + 1), mp.matrix(count + 1, 1)
        for row, x in enumerate(points):
            for column in range(count):
                matrix[row, column] = x**column
            matrix[row, count] = (-1) ** row * weight(x)
            right[row] = f(x)
        solution = mp.lu_solve(matrix, right)
        coefficients[:] = [solution[i] for i in range(count)]
        fitted = list(coefficients)
        return lambda x: horner(fitted, x), solution[count]

    wanted = {x: f(x) for x in grid}
    exchange(solve, lambda fitted, x: (wanted[x] - fitted(x)) / weight(x), grid, points)
    return coefficients


def fit_exp(kind: Format) -> list[Real]:
    """Q such that expm1(r) = r + r^2 Q(r): the error relative to expm1, which is stricter than relative to exp."""
    grid = [kind.half_ln2 * (mpf(2 * i + 1) / GRID - 1) for i in range(GRID)]
    # Off the middle: at r = 0 the relative error has no value.
    points = [kind.half_ln2 * (x + mpf(1) / 20) / mpf("1.05") for x in chebyshev(kind.exp_degree)]
    return fit_polynomial(
        lambda r: (mp.expm1(r) - r) / r**2,
        lambda r: abs(mp.expm1(r)) / r**2,
        grid,
        points,
    )


def fit_central(kind: Format) -> list[Real]:
    """A such that normal_cdf(v) = 1/2 + v A(v^2) for |v| <= CENTRAL, the error relative to the smaller side.

    The first coefficient is the density at 0 as rounded; the others make up for it, where the rounding counts most.
    """
    first = kind.rounded(1 / mp.sqrt(2 * mp.pi))

    def rest(square: Real) -> Real:
        t = mp.sqrt(square)
        return (mp.erf(t / mp.sqrt(2)) / (2 * t) - first) / square

    def weight(square: Real) -> Real:
        t = mp.sqrt(square)
        return mp.erfc(t / mp.sqrt(2)) / t / square

    end = CENTRAL**2
    grid = [end * (i + 1) / GRID for i in range(GRID)]
    points = [grid[0] + (end - grid[0]) * (1 + x) / 2 for x in chebyshev(kind.central_degree + 1)]
    return [first, *fit_polynomial(rest, weight, grid, points)]


def fit_mills(kind: Format) -> tuple[list[Real], list[Real]]:
    """P and R such that the Mills ratio, tail / density, is P(t) / (t P(t) + R(t)) for t >= CENTRAL.

    It tends to 1/t: with P above and below, its errors cancel where t is large. All coefficients are positive.
    """
    tops, rests = kind.mills_degree + 1, kind.mills_degree
    count = tops + rests
    top = [mpf(1)] * tops
    rest = [mpf(1)] + [mpf(0)] * (rests - 1)
    level = mpf(0)

    def solve(points: list[Real]) -> tuple[Function, Real]:
        # P = f (t P + R) (1 - s E) is linear but for the products with E: Newton's steps on those.
        nonlocal level
        values = [mills_ratio(t) for t in points]
        for _ in range(40):
            matrix, right = mp.matrix(count), mp.matrix(count, 1)
            for row, (t, f) in enumerate(zip(points, values, strict=True)):
                sign = (-1) ** row
                factor = f * (1 - sign * level)
                slope = sign * f * (t * horner(top, t) + horner(rest, t))
                for column in range(tops):
                    matrix[row, column] = t**column - factor * t ** (column + 1)
                for column in range(1, rests):
                    matrix[row, tops + column - 1] = -factor * t**column
                matrix[row, count - 1] = slope
                right[row] = factor + level * slope
            solution = mp.lu_solve(matrix, right)
            top[:] = [solution[i] for i in range(tops)]
            rest[1:] = [solution[tops + i] for i in range(rests - 1)]
            step, level = solution[count - 1] - level, solution[count - 1]
            if abs(step) < abs(level) * mpf("1e-8"):
                break
        p, r = list(top), list(rest)
        return lambda t: horner(p, t) / (t * horner(p, t) + horner(r, t)), level

    known: dict[Real, Real] = {}

    def error(fitted: Function, t: Real) -> Real:
        if t not in known:
            known[t] = mills_ratio(t)
        return 1 - fitted(t) / known[t]

    def spread(
        u: Real,
    ) -> Real:  # 0 .. 1 to CENTRAL .. tail_end, dense near its begin, where the function bends
        length = kind.tail_end - CENTRAL
        return CENTRAL + length * u / (1 + length / 3 * (1 - u))

    grid = [spread(mpf(i) / GRID) for i in range(GRID + 1)]
    exchange(solve, error, grid, [spread((1 + x) / 2) for x in chebyshev(count)])
    if min(top + rest) <= 0:
        raise ArithmeticError("the fit of the Mills ratio has a coefficient that is not positive")
    return top, rest


def array(kind: Format, name: str, values: list[Real]) -> str:
    numbers = ", ".join(kind.literal(kind.rounded(value)) for value in values)
    lines = textwrap.fill(numbers, 120, initial_indent="      ", subsequent_indent="      ")
    return f"  static constexpr {kind.name} {name}[] = {{\n{lines}}};"


def number(kind: Format, name: str, value: Real) -> str:
    return f"  static constexpr {kind.name} {name} = {kind.literal(kind.rounded(value))};"


def structure(kind: Format) -> list[str]:
    ln2_high = round_to(mp.log(2), kind.high_bits)
    mills, mills_rest = fit_mills(kind)
    log_density = -mp.log(2 * mp.pi) / 2  # of the normal density at 0
    log_density_high = round_to(log_density, kind.high_bits)
    return [
        f"template <> struct Coefficients<{kind.name}> {{",
        number(kind, "log2_e", 1 / mp.log(2)),
        number(kind, "ln2_high", ln2_high),
        number(kind, "ln2_low", mp.log(2) - ln2_high),
        number(kind, "underflow", mp.floor((kind.minimum_exponent - 1) * mp.log(2))),
        number(kind, "overflow", mp.ceil((kind.bias + 1) * mp.log(2))),
        number(kind, "vanished", kind.tail_end),
        number(kind, "log_density_high", log_density_high),
        number(kind, "log_density_low", log_density - log_density_high),
        array(kind, "exp", fit_exp(kind)),
        number(kind, "central_end", CENTRAL),
        array(kind, "central", fit_central(kind)),
        array(kind, "mills", mills),
        array(kind, "mills_rest", mills_rest),
        "};",
    ]


def header() -> str:
    lines = [
        "// Written by fit_math.py: change that.",
        "#ifndef BATCHNORM_MATH_COEFFICIENTS_H",
        "#define BATCHNORM_MATH_COEFFICIENTS_H",
        "",
        "namespace BN_ISA {",
        "",
        "template <class S> struct Coefficients;",
        *structure(FLOAT),
        *structure(DOUBLE),
        "",
        "}  // namespace BN_ISA",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if the header is not what the fit gives")
    check = parser.parse_args().check
    mp.dps = 50
    text = header()
    if not check:
        HEADER.write_text(text)
    elif HEADER.read_text() != text:
        sys.exit(f"{HEADER.name} is not what fit_math.py gives: run it without --check")


if __name__ == "__main__":
    main()
