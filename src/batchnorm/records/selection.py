"""Measurements picked out of the records of an experiment: by arm and setting, a number a seed."""

from collections.abc import Iterable, Sequence
from typing import Any

from batchnorm.records.grouping import finite
from batchnorm.records.store import Line, Records

__all__ = ["distinct", "measurements", "seed_values", "select", "values"]


def measurements(records: Records, names: Iterable[str]) -> list[Line]:
    """Return the measurements of these runs, run by run in the order of their names; all must be there.

    Sorted, because runs end in another order with other `jobs`, and what is drawn from them must not differ.
    """
    return [line for name in sorted(names) for line in records.runs[name].measurements]


def select(lines: Iterable[Line], **where: Any) -> list[Line]:
    """Return the lines whose fields have these values.

    Example:
        >>> lines = [{"arm": "none", "seed": 0, "lr": 0.1}, {"arm": "batch", "seed": 0, "lr": 0.1}]
        >>> select(lines, arm="batch")
        [{'arm': 'batch', 'seed': 0, 'lr': 0.1}]
    """
    return [line for line in lines if all(line.get(key) == value for key, value in where.items())]


def values(lines: Iterable[Line], field: str, **where: Any) -> list[float | None]:
    """Return a field of the selected lines; None where it is missing, null or not a finite number."""
    return [finite(line.get(field)) for line in select(lines, **where)]


def seed_values(lines: Iterable[Line], field: str, **where: Any) -> dict[int, float | None]:
    """Return a field of the selected lines by seed, for paired differences and ratios.

    Args:
        lines: measurements.
        field: a numeric field of them.
        where: what picks one line a seed.

    Returns:
        Seed to number, in order of seeds; None where it is null: a loss that diverged has not gone.

    Raises:
        ValueError: two lines of the same seed are selected; `where` leaves open which is meant.

    Example:
        >>> lines = [{"arm": "none", "seed": 1, "loss": 2.0}, {"arm": "none", "seed": 0, "loss": None}]
        >>> seed_values(lines, "loss", arm="none")
        {0: None, 1: 2.0}
    """
    found: dict[int, float | None] = {}
    for line in select(lines, **where):
        seed = int(line["seed"])
        if seed in found:
            raise ValueError(
                f"{field!r} with {where} has two lines of seed {seed}; expected one, name more fields"
            )
        found[seed] = finite(line.get(field))
    return dict(sorted(found.items()))


def distinct(lines: Iterable[Line], field: str, **where: Any) -> Sequence[Any]:
    """Return the values that a field takes in the selected lines, in ascending order."""
    return sorted({line[field] for line in select(lines, **where) if line.get(field) is not None})
