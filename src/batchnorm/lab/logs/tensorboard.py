"""TensorBoard: one folder a run, `tensorboard --logdir DIR/tensorboard`."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from batchnorm.records.scalars import parameters, scalars
from batchnorm.records.store import Run

__all__ = ["Book"]


class Book:
    """Event files in a folder; see `batchnorm.lab.logs.Logbook`."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self._folder, self._settings = folder, settings

    def write(self, run: Run) -> None:
        """The folder of a run appears when its event file is whole."""
        target = self._folder / run.name
        if target.exists():
            return
        half = self._folder / f".{run.name}.tmp"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        with SummaryWriter(str(half)) as writer:
            text = json.dumps(parameters(run, self._settings), indent=2)
            writer.add_text("settings", "\n".join(f"    {line}" for line in text.splitlines()))
            for scalar in scalars(run):
                writer.add_scalar(scalar.name, scalar.value, scalar.step)
        os.rename(half, target)
