"""Test samples as a page can show them: small PNG images, or a few numbers."""

import base64
import struct
import zlib
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from batchnorm.lab.splits import SEED, Dataset, Split

__all__ = ["samples"]

_BUDGET = 1_200_000
# Side in pixels and bits a colour, tried in this order until all images fit the budget together.
_SIZES = ((64, 8), (48, 8), (32, 8), (32, 6), (24, 6), (16, 6), (12, 5), (8, 4))
_FEATURES = 8


def samples(dataset: Dataset, limit: int = 400) -> list[dict[str, Any]]:
    """Turn test samples into `sample` lines of the record format.

    Images are shown as they were before standardising, the lowest value of the training split black and
    the highest white, all channels of an image by the same rule; three channels are red, green and blue,
    any other number is averaged to grey. Large images are made smaller, until all together take at most
    1.2 MB of the page.

    Args:
        dataset: of images or of features.
        limit: how many samples at most; of a larger test set a fixed random choice, in its order.

    Returns:
        One dict a sample with `kind`, `index`, `label`, `image` (a PNG data address, or None) and
        `features` (the first eight numbers, or None).
    """
    rows = _choose(len(dataset.test.y), limit)
    labels = dataset.test.y[rows].tolist()
    images: list[str] | list[None] = [None] * len(rows)
    features: list[list[float]] | list[None] = [None] * len(rows)
    shown = _original(dataset, dataset.test.x[rows])
    if shown.ndim == 4:
        images = _addresses(_bytes(shown, *_range(dataset, dataset.train)))
    else:
        features = [[float(f"{value:.6g}") for value in row] for row in shown[:, :_FEATURES].tolist()]
    return [
        {"kind": "sample", "index": index, "label": label, "image": image, "features": numbers}
        for index, label, image, numbers in zip(rows.tolist(), labels, images, features, strict=True)
    ]


def _choose(count: int, limit: int) -> np.ndarray:
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(SEED).choice(count, limit, replace=False))


def _original(dataset: Dataset, x: torch.Tensor) -> np.ndarray:
    return x.double().numpy() if dataset.scaling is None else dataset.scaling.undo(x)


def _range(dataset: Dataset, split: Split) -> tuple[float, float]:
    low = split.x.amin((0, 2, 3)).reshape(1, -1, 1, 1)
    high = split.x.amax((0, 2, 3)).reshape(1, -1, 1, 1)
    return float(_original(dataset, low).min()), float(_original(dataset, high).max())


def _bytes(pixels: np.ndarray, low: float, high: float) -> torch.Tensor:
    """Return (N, 1 or 3, H, W), 0 to 255."""
    if pixels.shape[1] != 3:
        pixels = pixels.mean(1, keepdims=True)
    span = high - low if high > low else 1.0
    return torch.from_numpy(np.clip((pixels - low) / span, 0, 1) * 255)


def _addresses(pixels: torch.Tensor) -> list[str]:
    addresses: list[str] = []
    for side, bits in _SIZES:
        addresses = [_address(image, bits) for image in _shrink(pixels, side).numpy()]
        if sum(map(len, addresses)) <= _BUDGET:
            break
    return addresses


def _shrink(pixels: torch.Tensor, side: int) -> torch.Tensor:
    height, width = pixels.shape[2:]
    factor = side / max(height, width)
    if factor >= 1:
        return pixels
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return interpolate(pixels, size=size, mode="area")


def _address(image: np.ndarray, bits: int) -> str:
    levels = 2**bits - 1
    coarse = np.round(np.round(image / 255 * levels) / levels * 255).astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(_png(coarse.transpose(1, 2, 0))).decode()


def _png(image: np.ndarray) -> bytes:
    """Encode (H, W, 1 or 3) uint8 as PNG; each byte is stored as the difference to the pixel above."""
    height, width, channels = image.shape
    above = np.concatenate([np.zeros_like(image[:1]), image[:-1]])
    rows = (image - above).reshape(height, width * channels)
    filtered = np.concatenate([np.full((height, 1), 2, np.uint8), rows], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    body = zlib.compress(filtered.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
