"""MNIST, Fashion-MNIST and CIFAR-10, fetched from OpenML by scikit-learn."""

import http.client
import socket
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path
from types import MappingProxyType
from urllib.error import URLError

import numpy as np
import torch
from sklearn.datasets import fetch_openml, get_data_home

from batchnorm.errors import DataError
from batchnorm.lab.scaling import Scaling
from batchnorm.lab.splits import Dataset, Split, assemble, hold_out

__all__ = ["SOURCES", "Source", "load"]

_DIGITS = tuple("0123456789")
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_OBJECTS = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_TIMEOUT = 10.0
_DAMAGE = (BadGzipFile, EOFError, zlib.error, ValueError, KeyError, TypeError)
_NPZ = "a .npz file with x_train, y_train, x_test, y_test works without a network"


@dataclass(frozen=True)
class Source:
    """Where a set lies on OpenML, and what its flat table means.

    Args:
        data_id: OpenML's number.
        shape: of a sample, (C, H, W), row-major in the table.
        train: how many of the first rows are the published training set; the rest is its test set.
        rows: how many rows there are.
        class_names: in the order of the labels.
    """

    data_id: int
    shape: tuple[int, int, int]
    train: int
    rows: int
    class_names: tuple[str, ...]


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "mnist": Source(554, (1, 28, 28), 60_000, 70_000, _DIGITS),
        "fashion-mnist": Source(40996, (1, 28, 28), 60_000, 70_000, _CLOTHES),
        "cifar10": Source(40927, (3, 32, 32), 50_000, 60_000, _OBJECTS),
    }
)


def load(name: str, source: Source | None = None) -> Dataset:
    """Load a set from scikit-learn's cache, or fetch it from OpenML into the cache.

    OpenML keeps one table without a split; its first rows are the published training set in the
    published order. A tenth of them, each class in proportion, is set aside for validation by a fixed
    seed. Pixels are scaled to [0, 1] and standardised a channel by the training split.

    Args:
        name: a key of `SOURCES`.
        source: what to read instead of `SOURCES[name]`.

    Raises:
        DataError: the set is not cached and OpenML cannot be reached, or what came is damaged.

    Source: MNIST, Y. LeCun, C. Cortes and C. Burges. Fashion-MNIST, Xiao et al. 2017. CIFAR-10,
    A. Krizhevsky 2009.
    """
    source = SOURCES[name] if source is None else source
    pixels, labels = _table(name, source)
    stay, aside = hold_out(labels[: source.train], 0.1)
    test = np.arange(source.train, source.rows)
    scaling = Scaling.fit(pixels[stay])

    def split(rows: np.ndarray) -> Split:
        return Split(scaling.apply(pixels[rows]), torch.from_numpy(labels[rows]))

    return assemble(name, source.class_names, (split(stay), split(aside), split(test)), scaling)


def _table(name: str, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 pixels, (N, C, H, W), and int64 labels, (N,)."""
    try:
        home = get_data_home()
    except OSError as error:
        raise DataError(f"data {name!r} cannot be cached: {_line(error)}; set SCIKIT_LEARN_DATA") from None
    cache = Path(home) / "openml.org"
    columns = int(np.prod(source.shape))
    try:
        with _impatient():
            # By default pixels become int64, 700 MB more for CIFAR-10; and labels become categories, which
            # pandas 3.1 reads as numbers and scikit-learn 1.9 then fails on, expecting text.
            dtypes = {**dict.fromkeys(range(columns), "float32"), columns: "str"}
            bunch = fetch_openml(
                data_id=source.data_id,
                as_frame=False,
                data_home=home,
                n_retries=1,
                delay=0.1,
                read_csv_kwargs={"dtype": dtypes},
            )
        raw = np.asarray(bunch.data, np.float32)
        labels = np.char.strip(np.asarray(bunch.target).astype(str), "'").astype(float).astype(np.int64)
    except (OSError, http.client.HTTPException, UserWarning, *_DAMAGE) as error:
        raise DataError(f"data {name!r} {_explain(error, cache)}") from None
    found = f"{raw.shape[0]} rows of {raw.shape[1] if raw.ndim == 2 else 1} pixels"
    if raw.shape != (source.rows, columns):
        wanted = f"{source.rows} rows of {columns}"
        raise DataError(f"data {name!r} has {found}, expected {wanted}; delete '{cache}' and try again")
    if not (
        raw.min() >= 0 and raw.max() <= 255 and 0 <= labels.min() <= labels.max() < len(source.class_names)
    ):
        raise DataError(f"data {name!r} has pixels or labels out of range; delete '{cache}' and try again")
    return raw.astype(np.uint8).reshape(-1, *source.shape), labels


@contextmanager
def _impatient() -> Iterator[None]:
    """Make a missing network show at once.

    fetch_openml passes `n_retries` to the last of its four downloads only and no timeout to any; the
    warning that it gives before it sleeps and tries again is the one handle on the others.
    """
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message="A network error occurred", category=UserWarning)
            yield
    finally:
        socket.setdefaulttimeout(timeout)


def _explain(error: BaseException, cache: Path) -> str:
    """Tell a missing network, a damaged copy and both apart by what the error grew out of."""
    network: BaseException | None = None
    damage: BaseException | None = None
    step: BaseException | None = error
    while step is not None:
        if isinstance(step, URLError | TimeoutError | http.client.HTTPException | ConnectionError):
            network = network or step
        elif isinstance(step, _DAMAGE):
            damage = step
        step = step.__context__
    if network is None and damage is None:
        return f"cannot be kept in '{cache}': {_line(error)}"
    if network is None:
        return f"is damaged in the cache folder '{cache}' ({_line(damage)}); delete that folder and try again"
    state = "is not" if damage is None else f"was damaged ({_line(damage)})"
    reason = _line(getattr(network, "reason", network))
    return f"{state} in the cache folder '{cache}' and OpenML cannot be reached ({reason}); {_NPZ}"


def _line(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else f"{text[:117]}..." if text else type(error).__name__
