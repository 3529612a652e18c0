"""Batch normalization for PyTorch: right, fast and explained.

Importing this package does nothing but name what it offers; each name is loaded when it is first used.
"""

import importlib
from typing import Any

_HOME = {
    "BatchNorm1d": "batchnorm.nn",
    "BatchNorm2d": "batchnorm.nn",
    "BatchNorm3d": "batchnorm.nn",
    "BatchNormLSTM": "batchnorm.nn",
    "BatchRenorm1d": "batchnorm.nn",
    "BatchRenorm2d": "batchnorm.nn",
    "BatchRenorm3d": "batchnorm.nn",
    "ChannelsLastBatchNorm": "batchnorm.nn",
    "DomainBatchNorm1d": "batchnorm.nn",
    "DomainBatchNorm2d": "batchnorm.nn",
    "DomainBatchNorm3d": "batchnorm.nn",
    "FrozenBatchNorm1d": "batchnorm.nn",
    "FrozenBatchNorm2d": "batchnorm.nn",
    "FrozenBatchNorm3d": "batchnorm.nn",
    "GhostBatchNorm1d": "batchnorm.nn",
    "GhostBatchNorm2d": "batchnorm.nn",
    "GhostBatchNorm3d": "batchnorm.nn",
    "LazyBatchNorm1d": "batchnorm.nn",
    "LazyBatchNorm2d": "batchnorm.nn",
    "LazyBatchNorm3d": "batchnorm.nn",
    "RecurrentBatchNorm1d": "batchnorm.nn",
    "SyncBatchNorm": "batchnorm.nn",
    "backend": "batchnorm.ops",
    "convert": "batchnorm.surgery",
    "convert_": "batchnorm.surgery",
    "domain": "batchnorm.nn",
    "env": "batchnorm.installation",
    "insert": "batchnorm.surgery",
    "insert_": "batchnorm.surgery",
    "no_stats_update": "batchnorm.surgery",
    "recalibrate": "batchnorm.surgery",
    "recalibrate_": "batchnorm.surgery",
}
_SUBMODULES = ("errors", "functional", "probes")

__version__ = "0.1.0"
__all__ = ["__version__", *_HOME, *_SUBMODULES]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
