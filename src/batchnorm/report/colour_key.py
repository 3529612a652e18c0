"""The key to the colours of a chart's heat maps, which share one scale so that panels can be compared."""

from collections.abc import Sequence
from typing import Any

from plotly.colors import get_colorscale

from batchnorm.records.charts import Cells

__all__ = ["KEY_ROOM", "scale_of", "with_key"]

KEY_ROOM = 62  # pixels below the panels
WIDTH, BELOW = 240, 70
DIVERGING, SEQUENTIAL = "RdBu_r", "Cividis"


def scale_of(maps: Sequence[Cells]) -> dict[str, Any]:
    """Return plotly's settings of colour for all heat maps of a chart.

    Args:
        maps: at least one; where one is diverging, all of them are drawn about zero.

    Returns:
        A scale from the smallest to the largest of all numbers; two plain colours where they are 0 and 1 alone.
    """
    found = [value for each in maps for row in each.values for value in row if value is not None]
    if not found:
        return {"colorscale": get_colorscale(SEQUENTIAL)}
    if any(each.diverging for each in maps):
        most = max(abs(value) for value in found) or 1.0
        return {"colorscale": get_colorscale(DIVERGING), "zmin": -most, "zmax": most}
    scale = get_colorscale(SEQUENTIAL)
    if set(found) <= {0, 1}:
        no, yes = scale[0][1], scale[-1][1]
        return {"colorscale": [[0, no], [0.5, no], [0.5, yes], [1, yes]], "zmin": 0, "zmax": 1}
    return {"colorscale": scale, "zmin": min(found), "zmax": max(found)}


def with_key(scale: dict[str, Any], title: str, height: int) -> dict[str, Any]:
    """Return the same settings with a key below the panels, for the one trace that shows it.

    Args:
        scale: from `scale_of`.
        title: what the colours say.
        height: of the panels, in pixels.
    """
    bar: dict[str, Any] = {
        "orientation": "h",
        "thickness": 12,
        "len": WIDTH,
        "lenmode": "pixels",
        "x": 1,
        "xanchor": "right",
        "xpad": 0,
        "y": -BELOW / height,
        "yanchor": "top",
        "ypad": 0,
        "outlinewidth": 0,
        "title": {"text": title, "side": "top", "font": {"size": 13}},
    }
    if len(scale["colorscale"]) == 4:
        bar |= {"tickvals": [0.25, 0.75], "ticktext": ["no", "yes"]}
    return scale | {"showscale": True, "colorbar": bar}
