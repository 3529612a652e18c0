"""Records as `batchnorm bench` writes them, with times of our choosing."""

from batchnorm.bench.cases import Case, copies
from batchnorm.bench.results import Results
from batchnorm.bench.single import record as as_record

MACHINE = {
    "cpu": "Example CPU",
    "cores": 2,
    "threads": 2,
    "cache_bytes": 32 * 2**20,
    "memory_bytes": 2**34,
    "system": "Linux x86_64",
    "python": "3.12.1",
    "torch": "2.13.0",
    "batchnorm": "0.1.0",
    "backend": "native",
    "isa": "avx2",
    "native": "0123456789ab",
    "huge_pages": "madvise",
    "malloc": {},
    "date": "2026-01-02",
}
HEADER = {
    "kind": "bench",
    "schema": 1,
    "machine": MACHINE,
    "settings": {"preset": "quick"},
    "command": "batchnorm bench",
    "started": "2026-01-02T00:00:00+00:00",
}


def record(
    shape=(16, 64, 56, 56),
    phase="forward_backward",
    *,
    act="relu",
    residual=False,
    layout="contiguous",
    dtype="float32",
    torch=5.0,
    copy=0.9,
    waiting=0.01,
    not_run=None,
    **others,
):
    """One record; the numbers are ratios to ours, `copy` that of all the copies together."""
    case = Case(shape, layout, dtype, act, residual, ("ResNet-18",))
    bound = copies(act, residual, phase)
    times = {"batchnorm": [1e-3] * 5, "torch": [torch * 1e-3] * 5, "copy": [copy * 1e-3 / bound] * 5}
    times |= {"warm_copy": [copy * 5e-4 / bound] * 5} | {
        name: [value * 1e-3] * 5 for name, value in others.items()
    }
    return as_record(case, phase, times, waiting, not_run or {})


def step(network="ResNet-18", torch=1.2):
    """One record of a training step."""
    return {
        "kind": "step",
        "case": f"{network} batch 16 contiguous",
        "network": network,
        "phase": "step",
        "shape": [16, 3, 224, 224],
        "layout": "contiguous",
        "dtype": "float32",
        "rounds": 5,
        "seconds": {"torch": torch, "batchnorm": 1.0},
        "ratios": {"torch": {"median": torch, "low": torch, "high": torch}},
        "differs": {"float64": 1e-12, "float32": 1e-3},
    }


def results(*lines):
    """A whole file of them."""
    return Results([HEADER, *lines])
