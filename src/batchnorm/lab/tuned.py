"""The accuracy of each seed at the learning rate that does best on the validation split."""

from collections.abc import Mapping, Sequence
from typing import Any

from batchnorm.records.selection import distinct, seed_values, values
from batchnorm.records.store import Line

__all__ = ["accuracies", "best_rate"]


def best_rate(records: Sequence[Line], **where: Any) -> float | None:
    """The learning rate with the highest mean of `validation`; one that diverged at a seed is not chosen.

    Args:
        records: measurements with `lr` and `validation`, an accuracy or None.
        where: what is tuned, such as arm and depth.

    Returns:
        The smallest of the best; None where each diverged at some seed.

    Example:
        >>> lines = [{"arm": "batch", "lr": lr, "validation": a} for lr, a in ((0.1, 0.8), (0.2, 0.9), (0.4, None))]
        >>> best_rate(lines, arm="batch")
        0.2
    """  # fmt: skip
    means = {}
    for lr in distinct(records, "lr", **where):
        found = values(records, "validation", lr=lr, **where)
        numbers = [value for value in found if value is not None]
        if len(numbers) == len(found) > 0:
            means[lr] = sum(numbers) / len(numbers)
    return max(means, key=lambda lr: (means[lr], -lr), default=None)


def accuracies(records: Sequence[Line], field: str = "test", **where: Any) -> Mapping[int, float | None]:
    """Seed to accuracy at the best rate; empty where there is none.

    Args:
        records: as for `best_rate`, with a line a seed, `where` and rate.
        field: the accuracy to return. Default "test".
        where: as for `best_rate`.

    Example:
        >>> lines = [
        ...     {"seed": 0, "lr": lr, "validation": a, "test": a - 0.1} for lr, a in ((0.1, 0.8), (0.2, 0.9))
        ... ]
        >>> accuracies(lines)
        {0: 0.8}
    """
    lr = best_rate(records, **where)
    return {} if lr is None else seed_values(records, field, lr=lr, **where)
