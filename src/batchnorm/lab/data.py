"""Every data set that a run can be given, by the name the command line takes."""

import functools
import importlib.util
from collections.abc import Callable

from batchnorm.errors import DataError, MissingExtraError
from batchnorm.lab.splits import Dataset, Split

__all__ = ["KNOWN", "Dataset", "Split", "cached", "load"]

KNOWN = ("digits", "mnist", "fashion-mnist", "cifar10")


def load(name: str) -> Dataset:
    """Load a data set into memory, the same bytes every time.

    Args:
        name: `digits` (comes with scikit-learn), `mnist`, `fashion-mnist` or `cifar10` (fetched from
            OpenML on first use, then cached), the path of an `.npz` file, or `file.py:name` or
            `package.module:name` for loaders of your own.

    Returns:
        The three splits; images and features of the named sets and of `.npz` files are standardised
        by their training split, your own loaders' batches are taken as given.

    Raises:
        DataError: the name is unknown, or what it names is missing, malformed or cannot be fetched.
        MissingExtraError: scikit-learn is not installed.

    Example:
        >>> from batchnorm.lab.data import load
        >>> data = load("digits")
        >>> data.input_shape, data.num_classes, len(data.train.y)
        ((1, 32, 32), 10, 1077)
    """
    return _reader(name)()


@functools.cache
def cached(name: str) -> Dataset:
    """Load a data set as `load` does, once a process; what it gives is shared, so leave its tensors as they are."""
    return load(name)


def _reader(name: str) -> Callable[[], Dataset]:
    # The readers need scikit-learn; naming a data set must fail with our line, not with theirs.
    if importlib.util.find_spec("sklearn") is None:
        raise MissingExtraError(f"data {name!r} needs scikit-learn: pip install 'batchnorm[lab]'")
    from batchnorm.lab import digits, loaders, npz, openml

    if name == "digits":
        return digits.load
    if name in openml.SOURCES:
        return lambda: openml.load(name)
    if name.lower().endswith(".npz"):
        return lambda: npz.load(name)
    if ":" in name:
        return lambda: loaders.load(name)
    known = ", ".join(KNOWN)
    raise DataError(f"unknown data {name!r}; known are {known}, a .npz file, or file.py:name giving loaders")
