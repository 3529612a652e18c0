"""Loaders of the user's own, named as `file.py:name` and read into memory once."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Samples

from batchnorm.errors import DataError
from batchnorm.lab.arrays import Pair, check_agreement, check_features, check_labels
from batchnorm.lab.isolation import own_random_state
from batchnorm.lab.splits import SEED, Dataset, Split, assemble, hold_out
from batchnorm.lab.targets import describe, importable, load_target

__all__ = ["load"]

_SPLITS = ("train", "validation", "test")
_WANTED = "(train, test), (train, validation, test), or a dict with these keys"


def load(target: str) -> Dataset:
    """Read loaders of the user's own into memory, as they give their samples.

    `name` in `file.py:name` is a function without arguments that returns, or is itself, a pair
    (train, test), a triple (train, validation, test), or a dict with these keys and optionally
    `class_names`. Each split is an iterable of batches (x, y) such as a DataLoader, a torch Dataset, or
    one (x, y) of tensors or arrays. Without validation a tenth of training is set aside by a fixed seed.

    Every split is read once, from a fixed state of the random number generators, which are put back
    afterwards. So random augmentation is drawn once and every epoch sees the same images; a shuffling
    loader gives the same order, hence the same digest, every time. Nothing is standardised: the loaders
    own that.

    Args:
        target: `file.py:name` or `package.module:name`.

    Returns:
        x as float32, (N, C) or (N, C, H, W); y as int64 class numbers.

    Raises:
        DataError: the name does not exist, raises, or gives something else than described.
    """
    with own_random_state(SEED, "cpu"), importable(target):
        torch.manual_seed(SEED)
        parts = _parts(_resolve(target), target)
        names = _names(parts.pop("class_names", None), target)
        pairs = {split: _read(part, f"{split} of '{target}'") for split, part in parts.items()}
    class_names = check_agreement(pairs, names, f"'{target}'")
    train, test = pairs["train"], pairs["test"]
    if "validation" in pairs:
        validation = pairs["validation"]
    else:
        if len(train.y) < 2:
            raise DataError(
                f"{train.x_name} has one sample, which leaves none for validation; add validation"
            )
        stay, aside = hold_out(train.y, 0.1)
        validation = train._replace(x=train.x[aside], y=train.y[aside])
        train = train._replace(x=train.x[stay], y=train.y[stay])

    def split(pair: Pair) -> Split:
        return Split(torch.from_numpy(pair.x), torch.from_numpy(pair.y))

    return assemble(target, class_names, (split(train), split(validation), split(test)))


def _resolve(target: str) -> Any:
    found = load_target(target, error=DataError)
    if not callable(found):
        return found
    try:
        return found()
    except (Exception, SystemExit) as error:
        raise DataError(f"'{target}' raised {describe(error)}") from error


def _parts(found: Any, target: str) -> dict[str, Any]:
    if isinstance(found, Mapping):
        strange = [str(key) for key in found if key not in (*_SPLITS, "class_names")]
        if strange or "train" not in found or "test" not in found:
            keys = ", ".join(map(str, found)) or "no keys"
            raise DataError(f"'{target}' gives a dict with {keys}, expected {_WANTED}")
        return {key: found[key] for key in (*_SPLITS, "class_names") if key in found}
    if isinstance(found, tuple | list) and len(found) in (2, 3):
        return dict(zip(_SPLITS if len(found) == 3 else ("train", "test"), found, strict=True))
    size = f" of {len(found)}" if isinstance(found, tuple | list) else ""
    raise DataError(f"'{target}' gives a {type(found).__name__}{size}, expected {_WANTED}")


def _names(names: Any, target: str) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise DataError(f"class_names of '{target}' is a {type(names).__name__}, expected a list of names")
    return tuple(map(str, names))


def _read(part: Any, what: str) -> Pair:
    x_name, y_name = f"x in {what}", f"y in {what}"
    try:
        x, y = _gather(part, what)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{what} raised {describe(error)}") from error
    check_features(x, x_name)
    if x.ndim not in (2, 4):
        raise DataError(f"{x_name} has shape {x.shape}, expected (N, C) or (N, C, H, W)")
    return Pair(np.ascontiguousarray(x, np.float32), check_labels(y, y_name, len(x)), x_name, y_name)


def _gather(part: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(part, tuple | list) and len(part) == 2 and all(_is_array(item) for item in part):
        return _array(part[0]), _array(part[1])
    if isinstance(part, Samples):
        part = DataLoader(part, batch_size=256)
    if isinstance(part, str) or not isinstance(part, Iterable):
        raise DataError(
            f"{what} is a {type(part).__name__}, expected batches (x, y) or one (x, y) of tensors"
        )
    xs: list[np.ndarray] = []
    ys: list[np.ndarray] = []
    for number, batch in enumerate(part):
        if not (
            isinstance(batch, tuple | list) and len(batch) == 2 and all(_is_array(item) for item in batch)
        ):
            raise DataError(f"batch {number} of {what} is {_words(batch)}, expected (x, y) of tensors")
        x, y = _array(batch[0]), _array(batch[1])
        if xs and x.shape[1:] != xs[0].shape[1:]:
            raise DataError(
                f"batch {number} of {what} has samples of shape {x.shape[1:]}, batch 0 of {xs[0].shape[1:]}"
            )
        xs.append(x)
        ys.append(y)
    if not xs:
        raise DataError(f"{what} gives no batches; a loader can be read once, so give a fresh one")
    return np.concatenate(xs), np.concatenate(ys)


def _is_array(item: Any) -> bool:
    return isinstance(item, Tensor | np.ndarray)


def _array(item: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(item, np.ndarray):
        return item
    item = item.detach().cpu()
    # NumPy has no bfloat16.
    return (item.float() if item.is_floating_point() and item.dtype != torch.float64 else item).numpy()


def _words(batch: Any) -> str:
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of {', '.join(type(item).__name__ for item in batch) or 'nothing'}"
    return f"a {type(batch).__name__}"
