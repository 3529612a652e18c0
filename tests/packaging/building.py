"""Builds of the project as pip makes them for a user, once for all tests of a run."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
LIBRARY = "batchnorm/ops/libbatchnorm_native.so"
RECORD = "batchnorm/ops/native_build.txt"
TIMEOUT = 600


class Build(NamedTuple):
    sdist: Path
    wheel: Path
    objects: Path  # where the compiler left the object files
    site: Path  # what the wheel installs


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def needs(program: str) -> None:
    """Skip, saying so; in CI, where nothing may be missing, fail."""
    if shutil.which(program):
        return
    if os.environ.get("BATCHNORM_REQUIRE_NATIVE") == "1":
        pytest.fail(f"{program} is not installed")
    pytest.skip(f"{program} is not installed")


def make_wheel(source: Path, folder: Path, *options: str, **environment: str) -> Path:
    """A wheel of `source`. pip's own isolation: what pyproject.toml asks for is all that is there."""
    environment = {"BATCHNORM_REQUIRE_NATIVE": "0", **environment}
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    run(*pip, *options, "-w", folder, source, **environment)
    (wheel,) = folder.glob("*.whl")
    return wheel


def make_sdist(folder: Path) -> Path:
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    backend = folder / "backend"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--target", backend, *requires)
    code = f"from scikit_build_core.build import build_sdist; build_sdist({str(folder)!r})"
    run(sys.executable, "-c", code, cwd=ROOT, PYTHONPATH=str(backend))
    (sdist,) = folder.glob("*.tar.gz")
    return sdist


def make(folder: Path) -> Build:
    """sdist, wheel from the sdist, and the wheel unpacked: what a release goes through."""
    needs("g++")
    sdist = make_sdist(folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    objects = folder / "objects"
    wheel = make_wheel(source, folder, f"-Cbuild-dir={objects}", BATCHNORM_REQUIRE_NATIVE="1")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return Build(sdist, wheel, objects, folder / "site")


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compiled once, also when several processes share the tests."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "packaging"
    with FileLock(shared / "packaging.lock"):
        if not (folder / "done").exists():
            folder.mkdir()
            made = make(folder)
            (folder / "done").write_text("\n".join(str(path) for path in made))
    return Build(*map(Path, (folder / "done").read_text().splitlines()))


def recorded(site: Path) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in (site / RECORD).read_text().splitlines())


def installed(wheel: Path, folder: Path) -> Path:
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, wheel)
    return folder
