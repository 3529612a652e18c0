"""One translation unit an instruction set: an old processor must not meet the newest one's instructions."""

import platform
import re
from itertools import combinations
from pathlib import Path

import pytest

from tests.packaging.building import ROOT, TIMEOUT, needs, recorded, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * TIMEOUT),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the registers are x86's"),
]

# Registers and encodings that came with each: ymm and every v... instruction with AVX; zmm, registers from 16 on
# and mask registers with AVX-512.
AVX512 = r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])|%k[0-7]\b"
AVX = rf"\tv[a-z]|%ymm|{AVX512}"


def objects(build) -> dict[str, Path]:
    found = {path.name.removesuffix(".cpp.o"): path for path in build.objects.rglob("*.cpp.o")}
    assert set(found) == {"dispatch", "memory", "avx512", "avx2", "baseline"}
    return found


def instructions(path: Path) -> list[str]:
    needs("objdump")
    lines = run("objdump", "-d", "--no-show-raw-insn", path).splitlines()
    found = [line for line in lines if re.match(r" +[0-9a-f]+:\t", line)]
    assert found
    return found


@pytest.mark.parametrize(
    ("name", "newer"),
    [("baseline", AVX), ("dispatch", AVX), ("memory", AVX), ("avx2", AVX512)],
    ids=["baseline", "dispatch", "memory", "avx2"],
)
def test_no_unit_uses_registers_of_a_newer_processor(build, name, newer) -> None:
    assert [line for line in instructions(objects(build)[name]) if re.search(newer, line)] == []


@pytest.mark.parametrize(("name", "register"), [("avx2", "%ymm"), ("avx512", "%zmm")])
def test_each_unit_uses_the_registers_it_is_for(build, name, register) -> None:
    assert any(register in line for line in instructions(objects(build)[name]))


def defined(path: Path) -> set[str]:
    """Names that the linker could merge with those of another unit."""
    needs("nm")
    lines = run("nm", "--defined-only", "--extern-only", "--format=posix", path).splitlines()
    return {line.split()[0] for line in lines}


def test_no_two_units_define_the_same_name(build) -> None:
    names = {unit: defined(path) for unit, path in objects(build).items()}
    assert all(names.values())
    for one, other in combinations(sorted(names), 2):
        assert names[one] & names[other] == set(), (one, other)


def test_what_a_unit_defines_lies_in_its_namespace(build) -> None:
    # Weak ones above all: a template or inline function of a library, of which the linker keeps any one copy.
    for unit, path in objects(build).items():
        if unit not in ("dispatch", "memory"):
            assert {name for name in defined(path) if unit not in name} == set(), unit


def test_each_unit_is_compiled_for_what_dispatch_asks_the_processor_for(build) -> None:
    asked = set(
        re.findall(r'__builtin_cpu_supports\("(\w+)"\)', (ROOT / "native" / "dispatch.cpp").read_text())
    )
    flags = " ".join(recorded(build.site)[f"flags of {unit}"] for unit in ("avx2", "avx512"))
    assert set(re.findall(r"-m(?!prefer)(\S+)", flags)) == asked
