"""Which runs belong together, and what one run says: reading records without trusting them to be whole."""

import math
from collections.abc import Iterable
from typing import Any

from batchnorm.records.identity import arm_order
from batchnorm.records.store import Line, Records, Run

__all__ = [
    "ArmKey",
    "by_arm",
    "by_rate",
    "by_seed",
    "diverged",
    "entries",
    "finite",
    "first_epoch_reaching",
    "last_epoch",
    "planned_of",
    "planned_runs",
]

ArmKey = tuple[str, str | None]


def finite(value: Any) -> float | None:
    """Return `value` as a float, or None where it is missing, null or not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def entries(value: Any) -> list[Any]:
    """Return a list as it is, and anything else as an empty one."""
    return value if isinstance(value, list) else []


def by_arm(runs: Iterable[Run]) -> dict[ArmKey, list[Run]]:
    """Group runs by (arm, placement) in the order of display; inside, by rate and seed."""
    groups: dict[ArmKey, list[Run]] = {}
    for run in runs:
        place = run.header.get("placement")
        key = (str(run.header.get("arm")), None if place is None else str(place))
        groups.setdefault(key, []).append(run)
    return {key: sorted(groups[key], key=_rate_and_seed) for key in arm_order(groups)}


def by_rate(runs: Iterable[Run]) -> dict[float, list[Run]]:
    """Group the runs of one arm by learning rate, in ascending order."""
    groups: dict[float, list[Run]] = {}
    for run in sorted(runs, key=_rate_and_seed):
        groups.setdefault(_rate_and_seed(run)[0], []).append(run)
    return groups


def by_seed(runs: Iterable[Run]) -> dict[int, Run]:
    """Index the runs of one arm and rate by seed; of two with the same seed the first counts."""
    seeds: dict[int, Run] = {}
    for run in runs:
        seeds.setdefault(_rate_and_seed(run)[1], run)
    return dict(sorted(seeds.items()))


def diverged(run: Run) -> bool:
    """Whether the run's loss stopped being finite."""
    return bool(run.final.get("diverged"))


def last_epoch(run: Run) -> Line:
    """Return the run's last `epoch` line, or an empty one."""
    return run.epochs[-1] if run.epochs else {}


def first_epoch_reaching(run: Run, target: float) -> Line | None:
    """Return the first `epoch` line whose validation accuracy is at least `target`."""
    for line in run.epochs:
        accuracy = finite(line.get("val_accuracy"))
        if accuracy is not None and accuracy >= target:
            return line
    return None


def planned_runs(records: Records) -> int:
    """Return how many runs the settings ask for, rates that were added at the edge of a grid included."""
    settings = _settings(records)
    groups = by_arm(records.runs.values())
    keys = set(groups)
    for arm in entries(settings.get("norms")):
        if any(key[0] == arm for key in groups if key[1] in (None, "own")):
            continue
        places = [] if arm == "none" else entries(settings.get("placements"))
        keys.update((str(arm), str(place)) for place in places)
        keys |= set() if places else {(str(arm), None)}
    planned = sum(planned_of(records, groups.get(key, [])) for key in keys)
    return max(planned, len(records.runs))


def planned_of(records: Records, runs: Iterable[Run]) -> int:
    """Return how many runs the settings ask for in the arm that `runs` are of."""
    settings = _settings(records)
    asked = {rate for value in entries(settings.get("lrs")) if (rate := finite(value)) is not None}
    return len(asked | set(by_rate(runs))) * int(finite(settings.get("seeds")) or 0)


def _settings(records: Records) -> dict[str, Any]:
    settings = records.config.get("settings")
    return settings if isinstance(settings, dict) else {}


def _rate_and_seed(run: Run) -> tuple[float, int]:
    return finite(run.header.get("lr")) or 0.0, int(finite(run.header.get("seed")) or 0)
