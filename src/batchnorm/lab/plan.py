"""Which runs a comparison consists of."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from batchnorm.lab.config import CompareConfig
from batchnorm.records.store import Run
from batchnorm.records.summary import best_rate

__all__ = ["Task", "extension", "plan"]


@dataclass(frozen=True)
class Task:
    """One run: what distinguishes it from the others of its comparison."""

    arm: str
    placement: str | None
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """Unique in a comparison; the `run` of the record format."""
        place = "" if self.placement is None else f"-{self.placement}"
        return f"{self.arm}{place}-lr{self.lr!r}-seed{self.seed}"

    def identity(self) -> dict[str, Any]:
        """The fields that every line of this run carries."""
        return {
            "run": self.name,
            "arm": self.arm,
            "placement": self.placement,
            "lr": self.lr,
            "seed": self.seed,
        }


def plan(config: CompareConfig, placements: Sequence[str]) -> list[Task]:
    """The runs on the grid, seed by seed, so that what an interrupted comparison leaves is balanced.

    Arms follow each other at each rate, so that a machine that is busy for a while slows all of them alike.

    The arm `none` has nothing to place: it runs once, whatever the number of placements.
    """
    return [
        Task(arm, placement, lr, seed)
        for seed in range(config.seeds)
        for lr in config.lrs
        for arm, placement in _columns(config, placements)
    ]


def extension(config: CompareConfig, placements: Sequence[str], runs: Iterable[Run]) -> list[Task]:
    """The runs at one more rate for each arm and placement whose best rate lies at an edge of the grid.

    Looks at the runs on the grid only, so that the answer is the same before and after the extension.
    """
    if not config.extend:
        return []
    runs = list(runs)
    tasks = []
    for arm, placement in _columns(config, placements):
        column = [run for run in runs if _belongs(run, arm, placement) and run.header["lr"] in config.lrs]
        lr = _beyond(config.lrs, best_rate(column))
        if lr is not None:
            tasks += [Task(arm, placement, lr, seed) for seed in range(config.seeds)]
    return tasks


def _columns(config: CompareConfig, placements: Sequence[str]) -> list[tuple[str, str | None]]:
    columns: list[tuple[str, str | None]] = []
    for arm in config.norms:
        columns += [(arm, None)] if arm == "none" else [(arm, placement) for placement in placements]
    return columns


def _belongs(run: Run, arm: str, placement: str | None) -> bool:
    return run.header["arm"] == arm and run.header["placement"] == placement


def _beyond(lrs: Sequence[float], best: float | None) -> float | None:
    """The rate one step beyond the edge at which `best` lies, or None where it lies inside."""
    if best is None or len(lrs) < 2:
        return None
    if best == lrs[0]:
        return _rounded(lrs[0] * lrs[0] / lrs[1])
    if best == lrs[-1]:
        return _rounded(lrs[-1] * lrs[-1] / lrs[-2])
    return None


def _rounded(value: float) -> float:
    """One significant digit, as a person would continue 0.1, 0.3, 1."""
    return round(value, -math.floor(math.log10(value)))
