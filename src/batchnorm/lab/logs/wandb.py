"""Weights & Biases, offline: one `offline-run` folder a run, to be sent with `wandb sync DIR/wandb/offline-run-*`."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wandb

from batchnorm.records.scalars import parameters, scalars
from batchnorm.records.store import Run

__all__ = ["Book"]

# Nothing leaves this machine, reports about W&B's own errors included.
_OFFLINE = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}


class Book:
    """Offline runs in a folder; see `batchnorm.lab.logs.Logbook`."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self._folder, self._settings = folder, settings

    def write(self, run: Run) -> None:
        """The folder of a run appears when W&B has closed it; its id is that of settings and run, so it stays one."""
        text = json.dumps([self._settings, run.name], sort_keys=True, default=str)
        identity = hashlib.sha256(text.encode()).hexdigest()[:16]
        if any(self._folder.glob(f"offline-run-*-{identity}")):
            return
        half = self._folder / ".unfinished"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        with _environment(_OFFLINE):
            session = wandb.init(
                project="batchnorm",
                id=identity,
                name=run.name,
                group=str(run.header.get("arm")),
                config=parameters(run, self._settings),
                dir=str(half),
                mode="offline",
                reinit="create_new",
                settings=wandb.Settings(
                    silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True
                ),
            )
            values: dict[int, dict[str, float]] = {}
            for scalar in scalars(run):
                values.setdefault(scalar.step, {})[scalar.name] = scalar.value
            for step, entries in values.items():
                session.log(entries, step=step)
            session.finish()
        (made,) = half.glob(f"**/offline-run-*-{identity}")
        os.rename(made, self._folder / made.name)
        shutil.rmtree(half, ignore_errors=True)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
