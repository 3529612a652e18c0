"""What a comparison found, as numbers: the terminal's table and the page's answer both show these."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean, median

from batchnorm.records.grouping import (
    ArmKey,
    by_arm,
    by_rate,
    by_seed,
    diverged,
    finite,
    last_epoch,
    planned_of,
    planned_runs,
)
from batchnorm.records.identity import arm_label
from batchnorm.records.intervals import Interval, mean_interval, paired_difference
from batchnorm.records.reach import Reach, reach
from batchnorm.records.store import Records, Run

__all__ = ["ArmSummary", "RateSummary", "Summary", "best_rate", "edge", "summarize"]

BASELINE = "none"


@dataclass(frozen=True)
class RateSummary:
    """One learning rate of one arm: its runs, how many diverged, and the means over those that did not."""

    lr: float
    runs: int
    diverged: int
    val_accuracy: Interval | None
    val_loss: Interval | None


@dataclass(frozen=True)
class ArmSummary:
    """One (arm, placement), judged at its own best learning rate.

    `survivors` says that its means or those it is compared with leave out seeds that diverged at the best rate:
    the seeds that are left are no fair sample, so no difference of theirs is evidence.
    """

    key: ArmKey
    label: str
    rates: tuple[RateSummary, ...]
    best_lr: float | None
    at_edge: str | None
    test_accuracy: Interval | None
    test_loss: Interval | None
    accuracy_difference: Interval | None
    loss_difference: Interval | None
    val_loss_difference: Interval | None
    reach: Reach | None
    seconds_per_step: float | None
    step_difference: Interval | None
    parameters: int | None
    planned: int
    survivors: bool = False

    @property
    def complete(self) -> bool:
        """Whether every rate has run with every seed, so that the best rate is the best of the whole grid."""
        return self.runs >= self.planned

    @property
    def arm(self) -> str:
        """The arm's name, as in `--norms`."""
        return self.key[0]

    @property
    def placement(self) -> str | None:
        """`before`, `after` or `own`; None for the arm `none`."""
        return self.key[1]

    @property
    def lrs(self) -> tuple[float, ...]:
        """The learning rates that were run, ascending."""
        return tuple(rate.lr for rate in self.rates)

    @property
    def runs(self) -> int:
        """How many runs finished, at all rates."""
        return sum(rate.runs for rate in self.rates)

    @property
    def diverged(self) -> int:
        """How many of the finished runs diverged, at all rates."""
        return sum(rate.diverged for rate in self.rates)

    @property
    def best(self) -> RateSummary | None:
        """The numbers of the best rate."""
        return next((rate for rate in self.rates if rate.lr == self.best_lr), None)


@dataclass(frozen=True)
class Summary:
    """All arms in the order of display, and how much of what was asked for has been run.

    `winner` is the arm with the highest mean test accuracy, if the paired interval of its difference to every
    other arm excludes zero, no arm lacks runs, and none of these means leaves out a seed that diverged; else None.
    """

    arms: tuple[ArmSummary, ...]
    winner: ArmKey | None
    planned: int
    finished: int

    @property
    def baseline(self) -> ArmSummary | None:
        """The arm without normalization, if it has run."""
        return next((arm for arm in self.arms if arm.arm == BASELINE), None)

    @property
    def complete(self) -> bool:
        """Whether every planned run has finished."""
        return self.finished >= self.planned


def best_rate(runs: Iterable[Run]) -> float | None:
    """Return the learning rate with the highest mean validation accuracy in the last epoch.

    A diverged run counts as accuracy 0. Ties go to the lower mean validation loss, then to the lower rate.

    Args:
        runs: the runs of one (arm, placement).

    Returns:
        None without runs.
    """

    def merit(item: tuple[float, list[Run]]) -> tuple[float, float, float]:
        lr, group = item
        lines = [{} if diverged(run) else last_epoch(run) for run in group]
        accuracy = fmean(finite(line.get("val_accuracy")) or 0.0 for line in lines)
        losses = [finite(line.get("val_loss")) for line in lines]
        loss = fmean(float("inf") if value is None else value for value in losses)
        return -accuracy, loss, lr

    groups = by_rate(runs)
    return min(groups.items(), key=merit)[0] if groups else None


def edge(runs: Iterable[Run], lrs: Iterable[float] | None = None) -> str | None:
    """Say whether the best rate lies at an end of the grid, so that a better one may lie beyond.

    Args:
        runs: the runs of one (arm, placement).
        lrs: the grid; the rates of `runs` if omitted.

    Returns:
        `low`, `high` or None; None also for a grid of fewer than two rates, which has no inside.
    """
    runs = list(runs)
    best = best_rate(runs)
    grid = sorted(by_rate(runs) if lrs is None else set(lrs))
    if best is None or len(grid) < 2:
        return None
    if best <= grid[0]:
        return "low"
    return "high" if best >= grid[-1] else None


def summarize(records: Records) -> Summary:
    """Draw the statistics of a comparison from its records, also from those of one that was interrupted.

    Args:
        records: as `batchnorm.records.read` returns them.

    Returns:
        Arms that have no finished run yet are left out; comparisons with `none` are None without it.
    """
    groups = by_arm(records.runs.values())
    at_best = {key: _at_best(runs) for key, runs in groups.items()}
    base = next((at_best[key] for key in groups if key[0] == BASELINE), None)
    several = len({placement for _, placement in groups if placement}) > 1
    arms = tuple(
        _summarize_arm(
            key, arm_label(*key, several=several), runs, at_best[key], base, planned_of(records, runs)
        )
        for key, runs in groups.items()
    )
    whole = all(arm.complete for arm in arms)
    return Summary(arms, _winner(at_best) if whole else None, planned_runs(records), len(records.runs))


def _at_best(runs: list[Run]) -> dict[int, Run]:
    lr = best_rate(runs)
    return {} if lr is None else by_seed(by_rate(runs)[lr])


def _summarize_arm(
    key: ArmKey, label: str, runs: list[Run], best: dict[int, Run], base: dict[int, Run] | None, planned: int
) -> ArmSummary:
    def difference(values: Callable[[dict[int, Run]], dict[int, float | None]]) -> Interval | None:
        return None if base is None or base is best else paired_difference(values(best), values(base))

    parameters = [finite(run.header.get("parameters")) for run in runs]
    return ArmSummary(
        key=key,
        label=label,
        rates=tuple(_summarize_rate(lr, group) for lr, group in by_rate(runs).items()),
        best_lr=best_rate(runs),
        at_edge=edge(runs),
        test_accuracy=mean_interval(_test_accuracy(best).values()),
        test_loss=mean_interval(_test_loss(best).values()),
        accuracy_difference=difference(_test_accuracy),
        loss_difference=difference(_test_loss),
        val_loss_difference=difference(_val_loss),
        reach=None if base is None else reach(best, base),
        seconds_per_step=_median(_seconds_per_step(best)),
        step_difference=difference(_seconds_per_step),
        parameters=next((int(value) for value in parameters if value is not None), None),
        planned=planned,
        survivors=_lost_seeds(best) or (base is not None and _lost_seeds(base)),
    )


def _summarize_rate(lr: float, runs: list[Run]) -> RateSummary:
    finished = [last_epoch(run) for run in runs if not diverged(run)]
    return RateSummary(
        lr=lr,
        runs=len(runs),
        diverged=sum(diverged(run) for run in runs),
        val_accuracy=mean_interval(finite(line.get("val_accuracy")) for line in finished),
        val_loss=mean_interval(finite(line.get("val_loss")) for line in finished),
    )


def _test_accuracy(runs: dict[int, Run]) -> dict[int, float | None]:
    return _finals(runs, "test_accuracy")


def _test_loss(runs: dict[int, Run]) -> dict[int, float | None]:
    return _finals(runs, "test_loss")


def _seconds_per_step(runs: dict[int, Run]) -> dict[int, float | None]:
    return _finals(runs, "seconds_per_step")


def _val_loss(runs: dict[int, Run]) -> dict[int, float | None]:
    return {
        seed: None if diverged(run) else finite(last_epoch(run).get("val_loss")) for seed, run in runs.items()
    }


def _finals(runs: dict[int, Run], name: str) -> dict[int, float | None]:
    return {seed: None if diverged(run) else finite(run.final.get(name)) for seed, run in runs.items()}


def _median(values: dict[int, float | None]) -> float | None:
    numbers = [value for value in values.values() if value is not None]
    return median(numbers) if numbers else None


def _winner(at_best: dict[ArmKey, dict[int, Run]]) -> ArmKey | None:
    means = {key: mean_interval(_test_accuracy(runs).values()) for key, runs in at_best.items()}
    ranked = sorted((key for key in means if means[key]), key=lambda key: -_mean(means[key]))
    if len(ranked) < 2 or any(_lost_seeds(at_best[key]) for key in ranked):
        return None
    first = _test_accuracy(at_best[ranked[0]])
    for key in ranked[1:]:
        gap = paired_difference(first, _test_accuracy(at_best[key]))
        if gap is None or not gap.excludes_zero or gap.mean <= 0:
            return None
    return ranked[0]


def _lost_seeds(runs: dict[int, Run]) -> bool:
    return any(diverged(run) for run in runs.values())


def _mean(interval: Interval | None) -> float:
    return float("-inf") if interval is None else interval.mean
