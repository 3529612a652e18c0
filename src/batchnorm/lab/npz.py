"""Arrays of the user's own, in one `.npz` file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from batchnorm.errors import DataError
from batchnorm.lab.arrays import Pair, check_agreement, check_features, check_labels
from batchnorm.lab.scaling import Scaling
from batchnorm.lab.splits import Dataset, Split, assemble, hold_out

__all__ = ["load"]

_NEEDED = ("x_train", "y_train", "x_test", "y_test")
_OPTIONAL = ("x_val", "y_val", "class_names")
_CHANNELS = (1, 3)
_SHAPES = "(N, C), (N, H, W), (N, C, H, W) or (N, H, W, C)"


def load(path: str) -> Dataset:
    """Load `x_train`, `y_train`, `x_test`, `y_test` from an `.npz` file and standardise them.

    Nothing in the file is executed: arrays of Python objects are refused.

    Args:
        path: of the file. `x_*` are (N, C) features or images, (N, H, W), (N, C, H, W) or (N, H, W, C);
            the last is recognised by a final dimension of 1 or 3 where the other two after N are neither.
            8-bit images are scaled to [0, 1]; everything is then standardised a channel (images) or a
            feature by the training split. `y_*` are class numbers from 0, (N,). Optional are `x_val` and
            `y_val` (else a tenth of training, each class in proportion, by a fixed seed) and
            `class_names` (K,).

    Raises:
        DataError: the file is missing or no `.npz`, a key is missing, or an array is not as described.
    """
    arrays = _read(path)
    pairs = {}
    for title, suffix in (("train", "train"), ("validation", "val"), ("test", "test")):
        if f"x_{suffix}" in arrays:
            pairs[title] = _pair(arrays, suffix, path)
    given = arrays.get("class_names")
    class_names = check_agreement(pairs, None if given is None else _names(given, path), f"'{path}'")
    train, test = pairs["train"], pairs["test"]
    if "validation" in pairs:
        validation = pairs["validation"]
    else:
        if len(train.y) < 2:
            raise DataError(f"{train.x_name} has one sample, which leaves none for validation; add x_val")
        stay, aside = hold_out(train.y, 0.1)
        validation = train._replace(x=train.x[aside], y=train.y[aside])
        train = train._replace(x=train.x[stay], y=train.y[stay])
    scaling = Scaling.fit(train.x)

    def split(pair: Pair) -> Split:
        return Split(scaling.apply(pair.x), torch.from_numpy(pair.y))

    return assemble(path, class_names, (split(train), split(validation), split(test)), scaling)


def _read(path: str) -> dict[str, np.ndarray]:
    if not Path(path).exists():
        raise DataError(f"there is no file '{path}' (looked in {Path.cwd()})")
    if not zipfile.is_zipfile(path):
        raise DataError(f"'{path}' is not an .npz archive; write one with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = archive.files
            _check_keys(found, path)
            arrays = {}
            for key in (key for key in (*_NEEDED, *_OPTIONAL) if key in found):
                arrays[key] = _member(archive, key, path)
            return arrays
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"'{path}' cannot be read: {error}") from None


def _check_keys(found: list[str], path: str) -> None:
    missing = [key for key in _NEEDED if key not in found]
    if missing:
        there = ", ".join(found) or "nothing"
        needed = "" if len(missing) == len(_NEEDED) else f" (needed are {', '.join(_NEEDED)})"
        raise DataError(f"'{path}' lacks {', '.join(missing)}{needed}; found {there}")
    strange = [key for key in found if key.startswith(("x_", "y_")) and key not in (*_NEEDED, *_OPTIONAL)]
    if strange:
        known = ", ".join((*_NEEDED, *_OPTIONAL))
        raise DataError(f"'{path}' has {', '.join(strange)}, which means nothing here; known are {known}")
    if ("x_val" in found) != ("y_val" in found):
        there, absent = ("x_val", "y_val") if "x_val" in found else ("y_val", "x_val")
        raise DataError(f"'{path}' has {there} but not {absent}; give both or neither")


def _member(archive: np.lib.npyio.NpzFile, key: str, path: str) -> np.ndarray:
    try:
        value = archive[key]
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            advice = "store numbers, for example with array.astype(numpy.float32)"
            raise DataError(f"{key} in '{path}' is an array of Python objects; {advice}") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{key} in '{path}' cannot be read: {reason}") from None
    if not isinstance(value, np.ndarray):
        raise DataError(f"{key} in '{path}' is not an array; write the file with numpy.savez")
    return value


def _pair(arrays: dict[str, np.ndarray], suffix: str, path: str) -> Pair:
    x_name, y_name = f"x_{suffix} in '{path}'", f"y_{suffix} in '{path}'"
    x = _channels_first(check_features(arrays[f"x_{suffix}"], x_name), x_name)
    return Pair(x, check_labels(arrays[f"y_{suffix}"], y_name, len(x)), x_name, y_name)


def _channels_first(x: np.ndarray, name: str) -> np.ndarray:
    if x.ndim == 2:
        return x
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4:
        raise DataError(f"{name} has shape {x.shape}, expected {_SHAPES}")
    if x.shape[3] not in _CHANNELS:
        return x
    if x.shape[1] in _CHANNELS or x.shape[2] in _CHANNELS:
        raise DataError(
            f"{name} has shape {x.shape}, which could be (N, C, H, W) or (N, H, W, C); "
            "pad the images until height and width are other than 1 and 3"
        )
    return x.transpose(0, 3, 1, 2)


def _names(names: np.ndarray, path: str) -> tuple[str, ...]:
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(
            f"class_names in '{path}' has dtype {names.dtype} and shape {names.shape}, expected (K,) strings"
        )
    return tuple(names.tolist())
