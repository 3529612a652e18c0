"""Experiments on real data: what they train on, what they train, and how. Needs the extra `lab`.

From Python: `batchnorm.lab.run` does the runs of `batchnorm lab`, `batchnorm.lab.judge_folder` judges what is there.
`batchnorm.lab.config.CompareConfig` holds the settings of a comparison, `batchnorm.lab.compare.prepare` checks them
against data and model, and `batchnorm.lab.compare.compare` does its runs.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchnorm.lab.judging import judge_folder
    from batchnorm.lab.survey import run

__all__ = ["judge_folder", "run"]

_HOMES = {"judge_folder": "batchnorm.lab.judging", "run": "batchnorm.lab.survey"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
