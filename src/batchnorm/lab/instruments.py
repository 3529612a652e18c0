"""What the norm layers of a network see and give, measured so that nothing of the network changes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from batchnorm import probes
from batchnorm.surgery.restored import restored

__all__ = ["PROBE_SAMPLES", "activations"]

PROBE_SAMPLES = 256
PERCENTILES = (15, 50, 85)  # Ioffe and Szegedy 2015, figure 1
BINS = 60


def activations(
    module: nn.Module, sites: Sequence[str], probe: Tensor, *, histogram: bool
) -> list[dict[str, Any]]:
    """Describe input and output of the layers at `sites` on one batch, as training sees them.

    The layers at the sites run in training mode, so that they normalise by the statistics of the batch;
    everything else runs in evaluation mode, so that no dropout blurs the picture.

    Args:
        module: the network; it, its statistics, its flags and the random state are left as they are.
        sites: paths of the norm layers, or of the identities in their place.
        probe: a batch of samples, (N, ...).
        histogram: whether to add a histogram of `BINS` bins.

    Returns:
        For each site two entries (`where` is `input`, then `output`) with mean, std and percentiles;
        numbers that are not finite are left for the store to write as null.
    """
    with restored(module):
        module.eval()
        for site in sites:
            module.get_submodule(site).train()
        calls = probes.activations(module, probe, sites)
    last = {seen.path: seen for seen in calls}  # of a recurrent network, the last time step
    entries: list[dict[str, Any]] = []
    for site in sites:
        if site not in last:  # a layer that the network owns and never calls
            continue
        before, after = last[site].input, last[site].output
        assert before is not None  # norm layers take and give tensors
        assert after is not None
        first = _describe(before, histogram=histogram)
        second = first if after is before else _describe(after, histogram=histogram)
        entries.append({"site": site, "where": "input", **first})
        entries.append({"site": site, "where": "output", **second})
    return entries


def _describe(values: Tensor, *, histogram: bool) -> dict[str, Any]:
    flat = values.float().flatten().cpu().numpy()
    low, middle, high = (float(value) for value in np.percentile(flat, PERCENTILES))
    entry: dict[str, Any] = {
        "mean": float(flat.mean(dtype=np.float64)),
        "std": float(flat.std(dtype=np.float64)),
        "p15": low,
        "p50": middle,
        "p85": high,
    }
    if histogram:
        entry["histogram"] = _histogram(flat)
    return entry


def _histogram(flat: np.ndarray[Any, Any]) -> dict[str, list[Any]] | None:
    if flat.size == 0 or not np.isfinite(flat).all():
        return None
    counts, edges = np.histogram(flat.astype(np.float64), bins=BINS)
    return {"edges": [float(f"{edge:.9g}") for edge in edges], "counts": counts.tolist()}
