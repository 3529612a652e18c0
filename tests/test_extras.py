"""The core alone: what needs the extra `lab` says so in one line, and what does not works."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from batchnorm import extras
from batchnorm.errors import MissingExtraError

# Hides the packages of the extra, as if they were not installed, before anything of ours is loaded.
WITHOUT_LAB = """
import sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden} else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
sys.argv = ["batchnorm", *{arguments}]
from batchnorm.cli import main
main()
"""
# torch itself brings this one.
OPTIONAL = tuple(name for name in extras._LAB if name != "filelock")


def without_lab(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = WITHOUT_LAB.format(hidden=set(OPTIONAL), arguments=list(arguments))
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["compare", "--help"], ["report", "--help"], ["--version"]]
)
def test_help_needs_no_extra(arguments) -> None:
    done = without_lab(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("arguments", [["compare"], ["report", "somewhere"]])
def test_a_command_names_what_is_missing_and_how_to_install_it(arguments, tmp_path) -> None:
    done = without_lab(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "scipy" in done.stderr
    assert "pip install 'batchnorm[lab]'" in done.stderr


def test_one_missing_package_is_named_alone(monkeypatch) -> None:
    extras.require_lab()
    there = extras.importlib.util.find_spec
    monkeypatch.setattr(
        extras.importlib.util, "find_spec", lambda name: None if name == "torchmetrics" else there(name)
    )
    with pytest.raises(MissingExtraError) as caught:
        extras.require_lab()
    assert str(caught.value) == "torchmetrics not installed: pip install 'batchnorm[lab]'"


def test_what_is_required_is_what_the_extra_installs() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    names = {entry.partition(">")[0] for entry in project["optional-dependencies"]["lab"]}
    assert names == {"scikit-learn" if name == "sklearn" else name for name in extras._LAB}


def test_pictures_name_their_own_extra(monkeypatch) -> None:
    there = extras.importlib.util.find_spec
    monkeypatch.setattr(
        extras.importlib.util, "find_spec", lambda name: None if name == "kaleido" else there(name)
    )
    extras.require_lab()
    with pytest.raises(MissingExtraError) as caught:
        extras.require_pictures()
    assert str(caught.value) == "kaleido not installed: pip install 'batchnorm[pictures]'"
