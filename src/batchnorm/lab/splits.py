"""Train, validation and test in memory, how they are split, and the digest that names their content."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import train_test_split
from torch import Tensor

from batchnorm.lab.scaling import Scaling

__all__ = ["SEED", "Dataset", "Split", "assemble", "hold_out"]

SEED = 0


@dataclass(frozen=True, eq=False)
class Split:
    """Samples and their labels.

    Args:
        x: float32, (N, C, H, W) images or (N, C) features.
        y: int64, (N,), classes counted from 0.
    """

    x: Tensor
    y: Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of one data set, ready to train on.

    Args:
        name: as the user wrote it.
        class_names: one for each class, in the order of the labels.
        train: what the weights are fitted to.
        validation: what learning rates are chosen on.
        test: what is reported.
        digest: sha256 over names of splits, shapes, dtypes and bytes.
        scaling: how the numbers were standardised, to show samples as they were; None where they were
            taken as given.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    digest: str
    scaling: Scaling | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, (C, H, W) or (C,)."""
        return tuple(self.train.x.shape[1:])

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)


def assemble(
    name: str,
    class_names: tuple[str, ...],
    splits: tuple[Split, Split, Split],
    scaling: Scaling | None = None,
) -> Dataset:
    """Put train, validation and test together and name their content by its digest."""
    sha = hashlib.sha256()
    for title, split in zip(("train", "validation", "test"), splits, strict=True):
        for tensor in (split.x, split.y):
            sha.update(f"{title} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            sha.update(tensor.contiguous().numpy().data.cast("B"))
    return Dataset(name, class_names, *splits, digest=sha.hexdigest(), scaling=scaling)


def hold_out(y: np.ndarray, fraction: float, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Choose by a fixed seed which samples stay and which are set aside, each class in proportion.

    Where a class has a single sample, or fewer are set aside than there are classes, proportion is
    impossible and the choice is plainly random.

    Args:
        y: labels, (N,).
        fraction: share to set aside, rounded up to whole samples.
        seed: of the choice.

    Returns:
        Indices that stay, indices set aside; both ascending.
    """
    aside = math.ceil(fraction * len(y))
    _, counts = np.unique(y, return_counts=True)
    proportional = counts.min() > 1 and min(aside, len(y) - aside) >= len(counts)
    stay, out = train_test_split(
        np.arange(len(y)), test_size=aside, random_state=seed, stratify=y if proportional else None
    )
    return np.sort(stay), np.sort(out)
