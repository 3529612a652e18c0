import shutil
import subprocess
from datetime import datetime

import pytest
import torch

import batchnorm
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
