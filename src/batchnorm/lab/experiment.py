"""What an experiment is: a published claim, the runs that test it, and the criterion that judges them.

`docs/how-to/add-an-experiment.md` shows a whole one. Loads no torch; `Experiment.run` does when it is called.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from batchnorm.records.charts import Chart
from batchnorm.records.claim import Claim
from batchnorm.records.store import Line
from batchnorm.records.verdict import Verdict

__all__ = ["RESERVED", "Experiment", "Scale", "Setting", "Task"]

T = TypeVar("T")
Setting = str | int | float | bool | None
RESERVED = frozenset({"kind", "run", "arm", "seed"})


@dataclass(frozen=True)
class Scale:
    """How large an experiment is run.

    Args:
        quick: few seeds and short runs; every criterion is still decided.
        seeds: repetitions, numbered from 0.
        data: name of the data set, for experiments that train on one.
    """

    quick: bool
    seeds: int
    data: str = "digits"

    def pick(self, quick: T, full: T) -> T:
        """Return the first where the scale is quick, else the second.

        Example:
            >>> Scale(quick=True, seeds=3).pick(300, 3000)
            300
        """
        return quick if self.quick else full


@dataclass(frozen=True)
class Task:
    """One run: everything that decides its numbers. Hashable, and the same in every process.

    Make it with `of`, read a setting as `task["lr"]`.
    """

    arm: str
    seed: int
    settings: tuple[tuple[str, Setting], ...] = ()

    @classmethod
    def of(cls, arm: str, seed: int, **settings: Setting) -> Self:
        """Make a task; settings keep their order.

        Raises:
            ValueError: a setting has the name of a field that every record has.

        Example:
            >>> Task.of("batch", 0, lr=0.1, steps=300).name
            'batch,lr=0.1,steps=300,seed=0'
        """
        if taken := RESERVED & settings.keys():
            raise ValueError(
                f"settings has {sorted(taken)[0]!r}, a field of every record; choose another name"
            )
        return cls(arm, seed, tuple(settings.items()))

    def __getitem__(self, name: str) -> Any:
        return dict(self.settings)[name]

    @property
    def name(self) -> str:
        """Unique in an experiment; the `run` of the record format."""
        return ",".join([self.arm, *(f"{key}={value}" for key, value in self.settings), f"seed={self.seed}"])

    def identity(self) -> dict[str, Any]:
        """The fields that every line of this run carries."""
        return {"run": self.name, "arm": self.arm, "seed": self.seed, **dict(self.settings)}


@dataclass(frozen=True, kw_only=True)
class Experiment(Claim):
    """A claim, and how it is tested. Its four functions are pure, and defined at the top level of their file.

    Args:
        plan: the runs at a scale, seed by seed, arms that share a seed next to each other. The same each time.
        run: does one run and returns its measurements: flat dicts that JSON can hold; numbers that are not finite
            become null. Called with its own random state, seeded with `task.seed` (torch, numpy, Python), on one
            thread. It may import torch, `plan`, `verdict` and `figures` must not.
        verdict: judges the measurements of all planned runs, as read back from disk. Each is what `run` returned,
            with `arm`, `seed` and the task's settings beside it.
        figures: what the page draws from the same measurements.
        seconds: how long all runs of a quick and of a full survey take on one core, measured; shown by
            `batchnorm lab list`, and the first guess of the time that is left.
        seeds: repetitions of a quick and of a full survey, unless `--seeds` says otherwise.
        uses_data: whether `Scale.data` is looked at.
    """

    plan: Callable[[Scale], Sequence[Task]]
    run: Callable[[Task], Sequence[Mapping[str, Any]]]
    verdict: Callable[[Sequence[Line]], Verdict]
    figures: Callable[[Sequence[Line]], Sequence[Chart]]
    seconds: tuple[float, float]
    seeds: tuple[int, int] = (3, 5)
    uses_data: bool = False

    def scale(self, *, quick: bool, seeds: int | None = None, data: str = "digits") -> Scale:
        """The scale at which it is run when nothing else is asked for."""
        return Scale(quick, self.seeds[0 if quick else 1] if seeds is None else seeds, data)
