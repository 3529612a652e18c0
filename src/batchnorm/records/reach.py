"""How soon an arm gets to the accuracy that the network without normalization ends with."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from batchnorm.records.grouping import diverged, finite, first_epoch_reaching, last_epoch
from batchnorm.records.intervals import Interval, mean_interval, paired_difference
from batchnorm.records.store import Run

__all__ = ["Reach", "reach"]

FEWEST = 3


@dataclass(frozen=True)
class Reach:
    """How soon an arm got to the validation accuracy that `none` ended with, seed by seed.

    `compared` seeds ran in both arms with a known target, `reached` of them got there. The means are over the
    seeds that got there. Where some did not, such a mean flatters the arm: it then has no interval,
    and there are no differences. A difference in epochs has an interval from three seeds on: epochs are whole
    numbers, so that two seeds often agree by chance, and their interval then has no width.
    """

    compared: int
    reached: int
    epochs: Interval | None
    seconds: Interval | None
    epochs_difference: Interval | None
    seconds_difference: Interval | None

    @property
    def complete(self) -> bool:
        """Whether every compared seed got there."""
        return 0 < self.compared == self.reached


def reach(runs: Mapping[int, Run], baseline: Mapping[int, Run]) -> Reach:
    """Compare an arm with `none`: the first epoch whose validation accuracy is at least the target.

    The target of a seed is the validation accuracy of `none` with that seed after its last epoch.

    Args:
        runs: seed to run of the arm at its best rate. A run that diverged did not get there.
        baseline: the same of `none`. Seeds in which it diverged have no target and are not compared.

    Returns:
        Differences are arm - none; `none` itself gets None there.
    """
    ours: dict[int, tuple[float | None, float | None] | None] = {}
    theirs: dict[int, tuple[float | None, float | None] | None] = {}
    for seed in sorted(runs.keys() & baseline.keys()):
        target = finite(last_epoch(baseline[seed]).get("val_accuracy"))
        if target is None or diverged(baseline[seed]):
            continue
        ours[seed] = _arrival(runs[seed], target)
        theirs[seed] = _arrival(baseline[seed], target)
    arrived = {seed: moment for seed, moment in ours.items() if moment is not None}
    reference = {seed: moment for seed, moment in theirs.items() if moment is not None}
    whole = len(arrived) == len(ours)
    means = [mean_interval(moment[i] for moment in arrived.values()) for i in (0, 1)]
    if not whole:
        means = [mean and replace(mean, low=None, high=None) for mean in means]
    differences: list[Interval | None] = [None, None]
    if whole and runs is not baseline:
        differences = [paired_difference(_part(arrived, i), _part(reference, i)) for i in (0, 1)]
        if differences[0] is not None and differences[0].n < FEWEST:
            differences[0] = replace(differences[0], low=None, high=None)
    return Reach(len(ours), len(arrived), means[0], means[1], differences[0], differences[1])


def _arrival(run: Run, target: float) -> tuple[float | None, float | None] | None:
    line = None if diverged(run) else first_epoch_reaching(run, target)
    return None if line is None else (finite(line.get("epoch")), finite(line.get("seconds")))


def _part(moments: Mapping[int, tuple[float | None, float | None]], i: int) -> dict[int, float | None]:
    return {seed: moment[i] for seed, moment in moments.items()}
