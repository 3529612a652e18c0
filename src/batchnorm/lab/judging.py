"""Verdicts from the records of a survey, without a run: what `batchnorm lab report` works with. Loads no torch."""

import os
from collections.abc import Iterable
from pathlib import Path

from batchnorm.errors import StoreError
from batchnorm.lab.experiment import Experiment, Scale
from batchnorm.lab.experiments import NAMES, load
from batchnorm.records import Records, read
from batchnorm.records.grouping import finite
from batchnorm.records.judged import Judged
from batchnorm.records.selection import measurements
from batchnorm.records.store import FILE_NAME
from batchnorm.records.verdicts import append_verdicts

__all__ = ["append", "judge", "judge_folder", "was_run"]


def was_run(folder: str | os.PathLike[str]) -> list[str]:
    """Return the names of the experiments that the folder of a survey holds records of."""
    return [name for name in NAMES if (Path(folder) / name / FILE_NAME).is_file()]


def judge_folder(folder: str | os.PathLike[str]) -> list[Judged]:
    """Judge every claim from the records below `folder`, and append the verdicts that are new to `verdicts.jsonl`.

    Args:
        folder: of a survey.

    Returns:
        All claims in the order of their numbers, those that were not run included.

    Raises:
        StoreError: there are no records of the lab, or they cannot be read or judged.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from batchnorm.lab import run
        >>> with TemporaryDirectory() as folder:
        ...     found = judge_folder(run(["layer-norm"], folder, quick=True, jobs=1))
        >>> [each.verdict.verdict for each in found if each.finished]
        ['reproduced']
    """
    there = was_run(folder)
    if not there:
        raise StoreError(f"'{folder}' holds no results of the lab; `batchnorm lab run` makes them")
    judged = [
        judge(load(name), read(Path(folder) / name), Path(folder)) if name in there else Judged(load(name))
        for name in NAMES
    ]
    append(folder, judged)
    return judged


def append(folder: str | os.PathLike[str], judged: Iterable[Judged]) -> None:
    """Append the verdicts that there are, where they are new."""
    append_verdicts(folder, [each.verdict_line() for each in judged if each.verdict is not None])


def judge(experiment: Experiment, records: Records, folder: Path) -> Judged:
    """Judge one experiment from its records; without a verdict where a planned run is missing.

    Args:
        experiment: whose plan says which runs there must be.
        records: of this experiment.
        folder: named in errors.

    Raises:
        StoreError: the records lack what the criterion needs.
    """
    settings = records.config["settings"]
    try:
        scale = Scale(bool(settings["quick"]), int(settings["seeds"]), str(settings["data"] or "digits"))
        names = [task.name for task in experiment.plan(scale)]
        runs = [records.runs[name] for name in names if name in records.runs]
        seconds = sum(finite(run.final.get("seconds")) or 0.0 for run in runs)
        if len(runs) < len(names):
            return Judged(experiment, records.config, len(names), len(runs), seconds)
        lines = measurements(records, names)
        verdict, charts = experiment.verdict(lines), experiment.figures(lines)
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError) as error:
        raise StoreError(
            f"the records of {experiment.name!r} in '{folder}' cannot be judged: "
            f"{type(error).__name__}: {error}; run it again in another --out"
        ) from error
    return Judged(experiment, records.config, len(names), len(runs), seconds, verdict, tuple(charts))
