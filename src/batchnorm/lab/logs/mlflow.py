"""MLflow, in one SQLite file: one MLflow run a run, `mlflow ui --backend-store-uri sqlite:///DIR/mlflow/mlflow.db`."""

import json
import logging
import time
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from batchnorm.records.scalars import parameters, scalars
from batchnorm.records.store import Run

__all__ = ["Book"]

FILE_NAME = "mlflow.db"
_EXPERIMENT = "batchnorm"
_MOST = 1000  # metrics in one request; MLflow refuses more
_LONGEST = 5000  # characters of a parameter


class Book:
    """A database in a folder; see `batchnorm.lab.logs.Logbook`."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("mlflow", "alembic"):  # they remark on every table that they make
            logging.getLogger(name).setLevel(logging.ERROR)
        self._client = MlflowClient(tracking_uri=f"sqlite:///{folder.resolve() / FILE_NAME}")
        self._settings = settings
        there = self._client.get_experiment_by_name(_EXPERIMENT)
        if there is None:
            files = (folder / "artifacts").resolve().as_uri()  # else a folder of the working directory
            self._experiment = self._client.create_experiment(_EXPERIMENT, artifact_location=files)
        else:
            self._experiment = there.experiment_id
        self._written: set[str] = set()
        for run in self._runs():
            if run.info.status == "FINISHED":
                self._written.add(run.info.run_name)
            else:  # cut off in the middle
                self._client.delete_run(run.info.run_id)

    def write(self, run: Run) -> None:
        """A run counts when it is marked as finished, which is done last."""
        if run.name in self._written:
            return
        identity = self._client.create_run(self._experiment, run_name=run.name).info.run_id
        now = int(time.time() * 1000)
        metrics = [Metric(scalar.name, scalar.value, now, scalar.step) for scalar in scalars(run)]
        entries = parameters(run, self._settings).items()
        params = [Param(key, _text(value)) for key, value in entries if value is not None]
        self._client.log_batch(identity, params=params, tags=[RunTag("batchnorm.run", run.name)])
        for start in range(0, len(metrics), _MOST):
            self._client.log_batch(identity, metrics=metrics[start : start + _MOST])
        self._client.set_terminated(identity, "FINISHED")
        self._written.add(run.name)

    def _runs(self) -> list[Any]:
        found: list[Any] = []
        page = None
        while True:
            batch = self._client.search_runs([self._experiment], page_token=page)
            found += batch
            page = batch.token
            if not page:
                return found


def _text(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value))[:_LONGEST]
