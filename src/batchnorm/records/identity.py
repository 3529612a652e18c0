"""One identity an arm, the same on every page, plot and terminal: order, colour, dash and marker."""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["IDENTITIES", "Identity", "arm_label", "arm_order", "identity", "looks"]


@dataclass(frozen=True)
class Identity:
    """How an arm is drawn; dash and marker are plotly's names, so that colour is never the only sign.

    `dark` is the colour in a lighter shade, for dark pages.
    """

    colour: str
    dark: str
    dash: str
    marker: str


# Okabe-Ito and, for the arms that came later, colours told apart from it; the order is the order of display.
IDENTITIES = {
    "none": Identity("#6B6B6B", "#A6A6A6", "dash", "circle"),
    "batch": Identity("#0072B2", "#3A9FDE", "solid", "square"),
    "layer": Identity("#E69F00", "#F0B429", "dashdot", "diamond"),
    "group": Identity("#009E73", "#1FBF91", "dot", "triangle-up"),
    "instance": Identity("#CC79A7", "#DE97BE", "longdash", "x"),
    "local": Identity("#56B4E9", "#97D3F7", "longdashdot", "cross"),
    "ghost": Identity("#D55E00", "#F27A1D", "8px,3px", "triangle-down"),
    "renorm": Identity("#7A5195", "#B083CF", "14px,4px,3px,4px", "star"),
    "frozen": Identity("#8C564B", "#BC8578", "3px,6px", "hexagon"),
    "domain": Identity("#999933", "#C4C45A", "12px,3px,2px,3px", "star-square"),
    "sync": Identity("#117733", "#4DBB70", "20px,4px", "triangle-left"),
    "recurrent": Identity("#882255", "#D0709C", "2px,4px,8px,4px", "triangle-right"),
}
# For what the lab compares beside the norms: other colours again, given out in the order of display.
_FURTHER = (
    Identity("#332288", "#8C7BE0", "solid", "circle-open-dot"),
    Identity("#AA4499", "#D67CC6", "dash", "diamond-tall"),
    Identity("#44AA99", "#6FD3C3", "dashdot", "hourglass"),
    Identity("#CC6677", "#E88D9C", "longdash", "bowtie"),
    Identity("#8A7A1F", "#D9C75C", "dot", "asterisk"),
    Identity("#661100", "#C9705C", "longdashdot", "pentagon"),
)
_UNKNOWN = Identity("#4C5B61", "#8FA3AB", "5px,5px", "pentagon")
_PLACEMENTS = ("before", "after", "own")


def identity(arm: str) -> Identity:
    """Return how `arm` is drawn; an arm without an identity of its own gets a neutral one."""
    return IDENTITIES.get(arm, _UNKNOWN)


def looks(arms: Iterable[str]) -> dict[str, Identity]:
    """Return how each of these arms is drawn on one page: an arm without a look of its own gets a further one.

    Args:
        arms: in the order of display, which decides who gets which; they may repeat.

    Example:
        >>> looks(["batch", "skipinit"])["batch"] == identity("batch")
        True
    """
    further = iter(_FURTHER)
    found: dict[str, Identity] = {}
    for arm in arms:
        if arm not in found:
            found[arm] = IDENTITIES.get(arm) or next(further, _UNKNOWN)
    return found


def arm_order(arms: Iterable[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    """Sort (arm, placement) pairs as they are shown: known arms first, `before` in front of `after`."""
    known = list(IDENTITIES)

    def key(pair: tuple[str, str | None]) -> tuple[int, str, int, str]:
        arm, placement = pair
        place = placement or ""
        first = known.index(arm) if arm in IDENTITIES else len(known)
        second = _PLACEMENTS.index(place) if place in _PLACEMENTS else len(_PLACEMENTS)
        return first, arm, second, place

    return sorted(arms, key=key)


def arm_label(arm: str, placement: str | None, *, several: bool) -> str:
    """Return what an arm is called in tables and legends.

    Args:
        several: whether arms of more than one placement are shown, so that it has to be named.

    Example:
        >>> arm_label("batch", "after", several=True)
        'batch (after)'
    """
    return f"{arm} ({placement})" if several and placement else arm
