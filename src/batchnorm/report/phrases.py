"""What arms are called inside a sentence."""

import re
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from batchnorm.records.wording import seeds

__all__ = ["listed", "meanings", "phrase", "seed_range", "tidy"]

_NAMES = {
    "none": "no normalization",
    "batch": "batch norm",
    "layer": "layer norm",
    "group": "group norm",
    "instance": "instance norm",
    "local": "local response norm",
    "ghost": "ghost batch norm",
    "renorm": "batch renorm",
    "frozen": "frozen batch norm",
    "domain": "domain batch norm",
    "sync": "synchronised batch norm",
    "recurrent": "recurrent batch norm",
}
# What a reader may not know of an arm.
_MEANINGS = {
    "ghost": "each virtual batch of 8 samples is normalised by its own statistics in training; with batches of at most "
    "8 it is batch norm",
    "renorm": "batch statistics corrected towards the running ones, in bounds that open from nothing after a warm-up "
    "of 40 steps to a factor of 3 and a shift of 5 standard deviations",
    "frozen": "batch norm by the statistics of the untrained network, measured once on training samples; its scale and "
    "shift are not trained either",
    "domain": "batch norm with running statistics of each domain, for data of several sources; the data here are one "
    "domain, where it is batch norm",
    "sync": "batch norm by the statistics of all processes; a run here is one process, where it is batch norm",
    "recurrent": "batch norm with running statistics of each time step, where batch norm has one set for all steps",
}
_PLACES = {"before": " before the activation", "after": " after the activation", "own": ""}


def seed_range(counts: Iterable[int]) -> str:
    """Return how many seeds stand behind an arm, over several arms: `5 seeds`, `3 to 5 seeds`."""
    n = sorted(set(counts))
    return seeds(n[0]) if len(n) == 1 else f"{n[0]} to {seeds(n[-1])}" if n else "no seeds"


def phrase(arm: str, placement: str | None, *, several: bool) -> str:
    """Return how a sentence names an arm: `batch norm after the activation`.

    Args:
        several: whether arms of more than one placement are shown, so that it has to be named.
    """
    place = _PLACES.get(placement or "", f" ({placement})" if placement else "")
    return _NAMES.get(arm, f"'{arm}'") + (place if several else "")


def meanings(arms: Iterable[str]) -> list[tuple[str, str]]:
    """Return the name and a line for each of these arms that needs one."""
    present = set(arms)
    return [(arm, f"{meaning}.") for arm, meaning in _MEANINGS.items() if arm in present]


def listed(items: Sequence[str]) -> str:
    """Return `a`, `a and b` or `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def tidy(text: str) -> str:
    """Keep intervals, and numbers with the word they count, on one line."""
    kept = re.sub(r"\[[^\]\[]{1,40}\]", lambda found: found.group().replace(" ", "\u00a0"), text)
    kept = re.sub(r"(\d) (?=(?:epochs?|seeds?|points|times|m?s|min|h)\b)", "\\1\u00a0", kept)
    return Markup(kept) if isinstance(text, Markup) else kept
