"""What arms are called inside a sentence."""

import re
from collections.abc import Sequence

from markupsafe import Markup

__all__ = ["listed", "phrase", "tidy"]

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
}
_PLACES = {"before": " before the activation", "after": " after the activation", "own": ""}


def phrase(arm: str, placement: str | None, *, several: bool) -> str:
    """Return how a sentence names an arm: `batch norm after the activation`.

    Args:
        several: whether arms of more than one placement are shown, so that it has to be named.
    """
    place = _PLACES.get(placement or "", f" ({placement})" if placement else "")
    return _NAMES.get(arm, f"'{arm}'") + (place if several else "")


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
