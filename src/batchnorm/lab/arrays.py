"""Checks of arrays that come from outside: each failure is one line that quotes what is wrong."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from batchnorm.errors import DataError

__all__ = ["Pair", "check_agreement", "check_features", "check_labels"]


class Pair(NamedTuple):
    """Samples and labels of one split before they become tensors, and what to call them in a message."""

    x: np.ndarray
    y: np.ndarray
    x_name: str
    y_name: str


def check_features(x: np.ndarray, name: str) -> np.ndarray:
    """Return `x` if it holds at least one sample of finite real numbers.

    Raises:
        DataError: it does not.
    """
    if x.dtype.kind not in "biuf":
        raise DataError(f"{name} has dtype {x.dtype}, expected real numbers")
    if x.ndim < 2:
        raise DataError(f"{name} has shape {x.shape}, expected a row or an image for each sample")
    if x.size == 0:
        raise DataError(f"{name} is empty, its shape is {x.shape}")
    finite = np.isfinite(x)
    if not finite.all():
        first = int(np.argmin(finite.reshape(len(x), -1).all(axis=1)))
        bad = x.size - int(finite.sum())
        raise DataError(f"{name} has {bad} NaN or infinite values, the first in sample {first}; remove them")
    return x


def check_labels(y: np.ndarray, name: str, samples: int) -> np.ndarray:
    """Return `y` as int64, (N,), if it holds one class number for each of `samples`; (N, 1) is accepted.

    Raises:
        DataError: it does not.
    """
    if y.dtype.kind not in "iu":
        hint = "number the classes from 0 and store them as integers"
        raise DataError(f"{name} has dtype {y.dtype}, expected integers; {hint}")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(f"{name} has shape {y.shape}, expected (N,): one class number a sample")
    if len(y) != samples:
        raise DataError(f"{name} has {len(y)} labels for {samples} samples")
    if int(y.min()) < 0:
        raise DataError(f"{name} has the negative label {int(y.min())}; number the classes from 0")
    return y.astype(np.int64)


def check_agreement(
    pairs: Mapping[str, Pair], class_names: tuple[str, ...] | None, what: str
) -> tuple[str, ...]:
    """Return the class names if the splits are samples of one problem; numbers stand in for missing names.

    Args:
        pairs: by split; `train` must be there.
        class_names: as given by the user, or None.
        what: the source, for messages.

    Raises:
        DataError: shapes of samples differ, a label has no name, or a class is not in training.
    """
    train = pairs["train"]
    for pair in pairs.values():
        if pair.x.shape[1:] != train.x.shape[1:]:
            shapes = f"{pair.x.shape[1:]}, those of {train.x_name} have {train.x.shape[1:]}"
            raise DataError(f"samples of {pair.x_name} have shape {shapes}")
    known = set(np.unique(train.y).tolist())
    if class_names is None:
        missing = next(label for label in range(len(known) + 1) if label not in known)
        if missing <= max(known):
            raise DataError(
                f"{train.y_name} has labels up to {max(known)} but none is {missing}; "
                "number the classes 0, 1, 2, ... without gaps, or give class_names"
            )
        class_names = tuple(map(str, sorted(known)))
    for pair in pairs.values():
        highest = int(pair.y.max())
        if highest >= len(class_names) and pair is train:
            raise DataError(
                f"{pair.y_name} has label {highest}, but class_names has {len(class_names)} names"
            )
        strange = sorted(set(np.unique(pair.y).tolist()) - known)
        if strange:
            raise DataError(f"{pair.y_name} has label {strange[0]}, which {train.y_name} never has")
    if len(known) < 2:
        raise DataError(
            f"{train.y_name} has one class, expected two or more: there is nothing to learn in {what}"
        )
    return class_names
