"""What a measurement ran on: enough to read the numbers, nothing that names a person or a path."""

import hashlib
import importlib.metadata
import importlib.resources
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import batchnorm
from batchnorm.installation import processor
from batchnorm.ops.shared_library import FILE_NAME, require, why_unavailable

__all__ = ["IDENTITY", "environment"]

# Results of two runs belong into one file only where these agree.
IDENTITY = ("cpu", "cores", "threads", "torch", "batchnorm", "backend", "isa", "native", "huge_pages")


def environment() -> dict[str, Any]:
    """Processor, caches, versions and settings of this process, and the moment."""
    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cache_bytes": _last_level_cache(),
        "memory_bytes": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "batchnorm": batchnorm.__version__,
        **_backend(),
        "huge_pages": _huge_pages(),
        "malloc": {key: os.environ[key] for key in sorted(os.environ) if _concerns_malloc(key)},
        "date": datetime.now(UTC).date().isoformat(),
    }


def _backend() -> dict[str, Any]:
    """Which kernels compute, and a fingerprint of their library, since a rebuilt one has the same version."""
    if why_unavailable() is not None:
        return {"backend": "reference", "isa": None, "native": None}
    file = importlib.resources.files("batchnorm.ops").joinpath(FILE_NAME)
    return {
        "backend": "native",
        "isa": require().isa,
        "native": hashlib.sha256(file.read_bytes()).hexdigest()[:12],
    }


def _last_level_cache() -> int | None:
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level, size = int((path / "level").read_text()), (path / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        if size.endswith("K") and size[:-1].isdigit():
            sizes.append((level, int(size[:-1]) * 1024))
    return max(sizes)[1] if sizes else None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _huge_pages() -> str | None:
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return None
    return text.partition("[")[2].partition("]")[0] or None


def _concerns_malloc(name: str) -> bool:
    return name.startswith(("MALLOC_", "LD_PRELOAD")) or name == "GLIBC_TUNABLES"
