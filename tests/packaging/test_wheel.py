"""What pip makes of the project and what a user then has: with a compiler, without one, and when the build fails."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from tests.packaging.building import (
    LIBRARY,
    RECORD,
    ROOT,
    TIMEOUT,
    installed,
    make_wheel,
    needs,
    recorded,
    run,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * TIMEOUT)]

# Prints where it ran from, what it loaded, and how far it is from torch.
SMOKE = """
import json, torch, batchnorm as bn
torch.manual_seed(0)
x = torch.randn(16, 8, 7, 5)
ours, theirs = bn.BatchNorm2d(8), torch.nn.BatchNorm2d(8)
distances = []
for _ in range(2):
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [ours(inputs[0], act="relu"), torch.relu(theirs(inputs[1]))]
    for y in outputs:
        y.square().sum().backward()
    distances += [(outputs[0] - outputs[1]).abs().max(), (inputs[0].grad - inputs[1].grad).abs().max()]
    distances += [(ours.running_var - theirs.running_var).abs().max()]
    ours.eval(), theirs.eval()
mapped = {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
print(json.dumps({
    "package": bn.__file__,
    "backend": bn.env().backend,
    "why": bn.env().why,
    "kernels": sorted(path for path in mapped if "libbatchnorm_native" in path),
    "openmp": sorted(path for path in mapped if "omp" in path.rpartition("/")[2]),
    "distance": max(distance.item() for distance in distances),
}))
"""


def smoke(site: Path, folder: Path) -> dict:
    # -S: an editable install of the checkout is found before everything else, and would be what is tested.
    path = os.pathsep.join([str(site), str(Path(torch.__file__).parents[1])])
    out = run(sys.executable, "-S", "-c", SMOKE, cwd=folder, PYTHONPATH=path, BATCHNORM_REQUIRE_NATIVE="0")
    return json.loads(out.splitlines()[-1])


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def package_files() -> set[str]:
    return {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "batchnorm").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_one_wheel_serves_every_python(build) -> None:
    assert build.wheel.name.endswith(f"-py3-none-linux_{platform.machine()}.whl")


def test_the_wheel_holds_the_package_and_the_library_and_nothing_else(build) -> None:
    outside = {name for name in names(build.wheel) if ".dist-info/" not in name}
    assert outside == package_files() | {LIBRARY, RECORD}
    assert recorded(build.site)["state"] == "built"


def test_the_sdist_holds_what_the_repository_tracks(build) -> None:
    with tarfile.open(build.sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    tracked = run("git", "ls-files", cwd=ROOT).splitlines() if (ROOT / ".git").exists() else []
    left_out = {name for name in tracked if (ROOT / name).exists()} - inside
    assert left_out <= {".gitignore"}
    assert not [name for name in inside if "__pycache__" in name or name.endswith((".so", ".o"))]


def test_the_library_needs_the_c_library_alone(build) -> None:
    needs("readelf")
    dynamic = run("readelf", "-dW", build.site / LIBRARY)
    needed = {line.partition("[")[2].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line}
    assert needed <= {"libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic


def test_the_library_offers_its_interface_and_asks_for_openmp(build) -> None:
    needs("nm")
    offered = {
        line.split()[-1] for line in run("nm", "-D", "--defined-only", build.site / LIBRARY).splitlines()
    }
    header = (ROOT / "native" / "batchnorm.h").read_text()
    assert offered
    assert {name for name in offered if not name.startswith("bn_")} == set()
    assert {name for name in offered if f"{name}(" not in header} == set()
    asked = {line.split()[-1] for line in run("nm", "-D", "-u", build.site / LIBRARY).splitlines()}
    assert {name for name in asked if name.startswith("GOMP_")}
    # The C++ runtime's names are mangled; what is left of it would have to be installed, and as new as the compiler's.
    assert {name for name in asked if name.startswith(("_Z", "__cxa_throw", "__gxx"))} == set()


def test_an_installed_wheel_computes_what_torch_does_with_its_kernels(build, tmp_path) -> None:
    site = installed(build.wheel, tmp_path / "site")
    found = smoke(site, tmp_path)
    assert found["package"].startswith(str(site))
    assert found["backend"] == "native"
    assert found["kernels"] == [str(site / LIBRARY)]
    assert len(found["openmp"]) == 1, "a second OpenMP runtime was loaded"
    assert found["distance"] < 2e-5


def test_without_a_compiler_the_install_is_pure_and_says_so(tmp_path) -> None:
    wheel = make_wheel(ROOT, tmp_path, CXX="/bin/false", CC="/bin/false")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert {name for name in names(wheel) if ".dist-info/" not in name} == package_files() | {RECORD}
    site = installed(wheel, tmp_path / "site")
    assert recorded(site)["state"] == "no compiler"
    found = smoke(site, tmp_path)
    assert found["package"].startswith(str(site))
    assert found["backend"] == "reference"
    assert "no C++ compiler was found (CXX=/bin/false)" in found["why"]
    assert found["kernels"] == []
    assert found["distance"] < 2e-5


@pytest.fixture
def broken(tmp_path) -> Path:
    """The project with kernels that do not compile."""
    source = tmp_path / "source"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "tests", "docs", "build")
    shutil.copytree(ROOT, source, ignore=left_out)
    for file in (source / "native").rglob("*.cpp"):
        file.write_text("#error broken on purpose\n")
    return source


def test_a_failed_build_gives_a_pure_install_and_is_not_mistaken_for_a_missing_compiler(
    broken, tmp_path
) -> None:
    needs("g++")
    wheel = make_wheel(broken, tmp_path)
    assert wheel.name.endswith("-py3-none-any.whl")
    site = installed(wheel, tmp_path / "site")
    assert recorded(site)["state"] == "build failed"
    found = smoke(site, tmp_path)
    assert found["backend"] == "reference"
    assert "build failed" in found["why"]
    assert recorded(site)["reason"] in found["why"]
    assert found["distance"] < 2e-5


@pytest.mark.parametrize("compiler", ["g++", "/bin/false"])
def test_where_the_kernels_are_required_their_absence_stops_the_install(compiler, broken, tmp_path) -> None:
    needs(compiler)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(tmp_path), str(broken)],
        env={**os.environ, "BATCHNORM_REQUIRE_NATIVE": "1", "CXX": compiler},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode != 0
    assert ("broken on purpose" if compiler == "g++" else "no compiler") in done.stdout + done.stderr
    assert not list(tmp_path.glob("*.whl"))
