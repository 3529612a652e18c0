"""One file a question: every published claim that is re-run, by name. Loading one loads no torch."""

import importlib
from collections.abc import Iterable

from batchnorm.errors import UsageError
from batchnorm.lab.experiment import Experiment

__all__ = ["NAMES", "chosen", "load"]

# In the order of their numbers. The file has the name with underscores, and holds EXPERIMENT.
NAMES = (
    "faster-training",
    "lenet",
    "larger-rates",
    "smoother-landscape",
    "covariate-shift",
    "identity-branches",
    "rescale",
    "placement",
    "initialization",
    "before-and-after",
    "layer-norm",
    "batch-size",
    "batch-renorm",
    "population-statistics",
    "dropout-shift",
    "gradient-explosion",
    "rank-collapse",
    "recurrent-batch-norm",
    "ghost-batch-norm",
    "only-batch-norm",
)


def load(name: str) -> Experiment:
    """Return the experiment of that name.

    Example:
        >>> load("layer-norm").number
        11
    """
    module = importlib.import_module(f"batchnorm.lab.experiments.{name.replace('-', '_')}")
    experiment: Experiment = module.EXPERIMENT
    return experiment


def chosen(names: Iterable[str]) -> list[Experiment]:
    """Return the experiments of these names in the order of their numbers; `all` stands for every one.

    Raises:
        UsageError: no name is given, or one is unknown; the message lists those that are known.
    """
    asked = list(names)
    for name in asked:
        if name not in (*NAMES, "all"):
            raise UsageError(f"experiment {name!r} is unknown; choose from all, {', '.join(NAMES)}")
    if not asked:
        raise UsageError(f"no experiment is named; choose from all, {', '.join(NAMES)}")
    return [load(name) for name in NAMES if name in asked or "all" in asked]
