"""What a comparison ran on and with: the first line of its records."""

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import batchnorm
from batchnorm.installation import processor
from batchnorm.records.store import SCHEMA

__all__ = ["config_line"]

_PACKAGES = ("torch", "lightning", "torchmetrics", "numpy", "scipy", "scikit-learn", "joblib", "plotly")


def config_line(settings: dict[str, Any], command: str | None) -> dict[str, Any]:
    """The `config` line of the record format.

    Args:
        settings: what decides the numbers.
        command: as typed, or None where a Python program asked.
    """
    return {
        "kind": "config",
        "schema": SCHEMA,
        "settings": settings,
        "versions": _versions(),
        "device": _device(str(settings["device"])),
        "command": command,
        "commit": _commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _versions() -> dict[str, str]:
    found = {"batchnorm": batchnorm.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _device(device: str) -> str:
    if device == "cuda":
        return f"GPU: {torch.cuda.get_device_name()}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words = f"CPU: {processor()}, {cores} usable cores, {platform.system()}"
    return words if device == "cpu" else f"{device} on {words}"


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, `-dirty` if it was changed since."""
    package = Path(batchnorm.__file__).resolve().parent
    root = package.parent.parent
    if package != root / "src" / "batchnorm" or not (root / ".git").exists():
        return None  # installed somewhere, perhaps inside a checkout of another project
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
