import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
import torch

import batchnorm
from batchnorm.errors import MissingExtraError
from batchnorm.lab import environment
from tests.lab import tiny


def line(command=None):
    return environment.config_line(tiny.config().settings("d", None), command)


def test_the_first_line_says_what_ran_on_what():
    found = line("batchnorm compare")
    assert found["kind"] == "config"
    assert found["command"] == "batchnorm compare"
    assert found["settings"]["batch_size"] == 8
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["batchnorm"] == batchnorm.__version__
    assert {"python", "lightning", "torchmetrics", "numpy", "scipy", "scikit-learn"} <= found[
        "versions"
    ].keys()
    assert found["device"].startswith("CPU: ")
    assert "usable cores" in found["device"]
    assert datetime.fromisoformat(found["started"]).tzinfo is not None


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git to make a checkout")
def test_the_commit_is_that_of_this_project_only(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "src" / "batchnorm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    monkeypatch.setattr(batchnorm, "__file__", str(package / "__init__.py"))
    assert line()["commit"] == git("rev-parse", "HEAD")
    (package / "__init__.py").write_text("changed")
    assert line()["commit"] == git("rev-parse", "HEAD") + "-dirty"
    # Installed inside a checkout of somebody else's project.
    elsewhere = tmp_path / "venv" / "batchnorm"
    shutil.copytree(package, elsewhere)
    monkeypatch.setattr(batchnorm, "__file__", str(elsewhere / "__init__.py"))
    assert line()["commit"] is None


def test_without_git_there_is_no_commit(monkeypatch, tmp_path):
    package = tmp_path / "src" / "batchnorm"
    package.mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(batchnorm, "__file__", str(package / "__init__.py"))
    monkeypatch.setenv("PATH", "")
    assert line()["commit"] is None


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    environment.require_lab()
    there = environment.importlib.util.find_spec
    monkeypatch.setattr(
        environment.importlib.util, "find_spec", lambda name: None if name == "torchmetrics" else there(name)
    )
    with pytest.raises(MissingExtraError) as caught:
        environment.require_lab()
    assert str(caught.value) == "torchmetrics not installed: pip install 'batchnorm[lab]'"


def test_what_is_required_is_what_the_extra_installs():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    names = {entry.partition(">")[0] for entry in project["optional-dependencies"]["lab"]} - {"numpy"}
    assert names == {"sklearn" if name == "scikit-learn" else name for name in environment._MODULES} - {
        "sklearn"
    } | {"scikit-learn"}
