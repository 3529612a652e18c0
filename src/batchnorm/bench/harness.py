"""Time callables against one another: interleaved rounds in random order, medians, and the spread of their ratios."""

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Effort", "Ratio", "geometric_mean", "interleaved", "medians", "ratio"]

Clock = Callable[[], float]
# Calls that go ahead of a block, as far as they fit into this time: a step over tensors that fill a cache finds them
# there only the fourth time, and a longer call evicts whatever a call before it could have warmed.
_WARMING, _MOST_AHEAD = 10e-3, 4


@dataclass(frozen=True)
class Effort:
    """How long to measure: seconds a block of calls and for all rounds together, and how many rounds."""

    block: float = 1e-3
    budget: float = 0.4
    least: int = 5
    most: int = 25


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios of single rounds, with their quartiles."""

    median: float
    low: float
    high: float


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    effort: Effort,
    *,
    clock: Clock = time.perf_counter,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Seconds a call of each callable, one number a round.

    In every round each callable runs as one block of calls, the blocks in a new random order, so that what slows the
    machine down for a while slows all of them. A block is long enough for the clock; up to four short
    calls before it, which are not timed, bring what fits into the caches back.

    Args:
        calls: what to time, by name.
        effort: how long.
        clock: seconds from some moment on.
        seed: of the order.

    Example:
        >>> sorted(interleaved({"a": lambda: None, "b": lambda: None}, Effort(budget=0.01)))
        ['a', 'b']
    """
    repeats = {name: _repeats(call, effort.block, clock) for name, call in calls.items()}
    enabled = gc.isenabled()
    gc.disable()
    try:
        first = {name: _block(calls[name], *repeats[name], clock) for name in calls}
        once = sum(first[name] * repeats[name][0] for name in calls)
        rounds = min(max(round(effort.budget / max(once, 1e-9)), effort.least), effort.most)
        times: dict[str, list[float]] = {name: [] for name in calls}
        order, generator = list(calls), random.Random(seed)
        for _ in range(rounds):
            generator.shuffle(order)
            for name in order:
                times[name].append(_block(calls[name], *repeats[name], clock))
    finally:
        if enabled:
            gc.enable()
    return times


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each."""
    return {name: statistics.median(values) for name, values in times.items()}


def ratio(over: Sequence[float], under: Sequence[float], scale: float = 1.0) -> Ratio:
    """`scale * over / under`, round by round.

    Example:
        >>> ratio([2.0, 4.0, 9.0], [1.0, 1.0, 3.0])
        Ratio(median=3.0, low=2.5, high=3.5)
    """
    found = [scale * a / b for a, b in zip(over, under, strict=True)]
    if len(found) < 2:
        return Ratio(found[0], found[0], found[0])
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
    return Ratio(middle, low, high)


def geometric_mean(values: Iterable[float]) -> float | None:
    """exp(mean(log)), or None of nothing."""
    logarithms = [math.log(value) for value in values]
    return math.exp(statistics.fmean(logarithms)) if logarithms else None


def _repeats(call: Callable[[], object], block: float, clock: Clock) -> tuple[int, int]:
    """Calls a block, and how many that are not timed go ahead of it."""
    call()
    count = 1
    while True:
        taken = _block(call, count, 0, clock) * count
        if taken >= block or count >= 1_000_000:
            return count, min(_MOST_AHEAD, int(_WARMING / max(taken / count, 1e-9)))
        # The estimate aims a little high, and never trusts one short sample with more than a tenfold step.
        count = min(max(math.ceil(1.2 * count * block / max(taken, 1e-9)), count + 1), 10 * count)


def _block(call: Callable[[], object], count: int, ahead: int, clock: Clock) -> float:
    for _ in range(ahead):
        call()
    start = clock()
    for _ in range(count):
        call()
    return (clock() - start) / count
