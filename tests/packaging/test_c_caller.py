"""The library called from C++ alone, without Python and torch; and the NEON build under an emulator."""

import platform
from pathlib import Path

import pytest

from tests.packaging.building import LIBRARY, ROOT, TIMEOUT, make_wheel, needs, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * TIMEOUT)]
CALLER = Path(__file__).with_name("caller.cpp")


def compile_caller(compiler: str, library: Path, program: Path) -> Path:
    needs(compiler)
    flags = ["-std=c++17", "-O1", "-fopenmp", "-iquote", str(ROOT / "native"), f"-Wl,-rpath,{library.parent}"]
    run(compiler, *flags, CALLER, library, "-o", program)
    return program


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names x86's instruction sets")
def test_every_instruction_set_agrees_with_loops_in_double(build, tmp_path) -> None:
    program = compile_caller("g++", build.site / LIBRARY, tmp_path / "caller")
    tried = run(program).splitlines()
    assert tried[-1].startswith("baseline ok")


@pytest.mark.skipif(platform.machine() == "aarch64", reason="NEON is what the other tests run here")
def test_the_neon_build_agrees_with_loops_in_double(tmp_path) -> None:
    compiler = "aarch64-linux-gnu-g++"
    needs(compiler)
    needs("qemu-aarch64")
    make_wheel(
        ROOT,
        tmp_path,
        f"-Cbuild-dir={tmp_path / 'objects'}",
        BATCHNORM_REQUIRE_NATIVE="1",
        CXX=compiler,
        CMAKE_ARGS="-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DBATCHNORM_WERROR=ON",
    )
    library = tmp_path / "objects" / Path(LIBRARY).name
    program = compile_caller(compiler, library, tmp_path / "caller")
    out = run("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", program)
    assert out.splitlines()[-1].startswith("neon ok")
