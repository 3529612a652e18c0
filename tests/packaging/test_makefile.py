"""What `make` does again when a file changed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.building import ROOT, needs

STEPS = ["torch", "batchnorm", "lab", "test", "lint"]


@pytest.fixture
def project(tmp_path) -> Path:
    """A checkout in which everything is set up: sources of yesterday, and the marks of all steps in their order."""
    for name in ("Makefile", "CMakeLists.txt", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "native", tmp_path / "native")
    for path in tmp_path.rglob("*"):
        os.utime(path, (1_000_000, 1_000_000))
    (tmp_path / ".venv").mkdir()
    for order, step in enumerate(STEPS):
        mark = tmp_path / ".venv" / f"{step}.done"
        mark.touch()
        os.utime(mark, (2_000_000 + order, 2_000_000 + order))
    return tmp_path


def make(project: Path, *arguments: str) -> str:
    needs("make")
    # What the `make test` around this passes on would change what is printed.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", *arguments],
        cwd=project,
        env=inherited,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("target", ["demo", "test", "lint", "bench"])
def test_nothing_is_installed_twice(project, target) -> None:
    assert "pip install" not in make(project, "-n", target)


@pytest.mark.parametrize(
    "changed", ["native/dispatch.cpp", "native/batchnorm.h", "CMakeLists.txt", "pyproject.toml"]
)
@pytest.mark.parametrize("target", ["demo", "test", "lint", "bench"])
def test_a_change_to_what_is_compiled_installs_again_and_keeps_torch(project, target, changed) -> None:
    (project / changed).touch()
    commands = make(project, "-n", target)
    assert commands.count("-e .") == 1
    assert "-m venv" not in commands


def test_the_targets_are_listed(project) -> None:
    first = make(project).splitlines()[0]
    for target in ("demo", "test", "lint", "bench"):
        assert target in first
