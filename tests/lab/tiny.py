"""A data set on which a run takes milliseconds, and settings to go with it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from batchnorm.lab.config import CompareConfig
from batchnorm.lab.splits import Dataset, Split, assemble

TIMES = {"seconds", "train_seconds", "seconds_per_step"}


def dataset(train: int = 40, classes: int = 3, features: int = 6) -> Dataset:
    def split(count: int, seed: int) -> Split:
        generator = torch.Generator().manual_seed(seed)
        y = torch.arange(count) % classes
        x = torch.randn(count, features, generator=generator)
        x[torch.arange(count), y] += 3
        return Split(x, y)

    return assemble(
        "tiny", tuple(f"class {i}" for i in range(classes)), (split(train, 0), split(12, 1), split(15, 2))
    )


def config(more: dict[str, Any] | None = None, **values: Any) -> CompareConfig:
    """Settings of runs that take milliseconds; `more` is added to what `--set` gives."""
    defaults: dict[str, Any] = {
        "model": "mlp",
        "lrs": "0.1",
        "epochs": 2,
        "seeds": 1,
        "batch_size": 8,
        "device": "cpu",
    }
    further = {"model.hidden": "5,4"} if values.get("model", "mlp") == "mlp" else {}
    return CompareConfig.of(**(defaults | values), further=further | (more or {}))


def npz(path: Path) -> Path:
    data = dataset(train=60)
    np.savez(
        path,
        x_train=data.train.x.numpy(),
        y_train=data.train.y,
        x_test=data.test.x.numpy(),
        y_test=data.test.y,
    )
    return path


def timeless(lines: Any) -> Any:
    """The lines without what a clock decides."""
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
