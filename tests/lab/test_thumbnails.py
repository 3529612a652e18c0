import base64
import struct
import zlib

import numpy as np
import torch

from batchnorm.lab import data
from batchnorm.lab.scaling import Scaling
from batchnorm.lab.splits import Split, assemble
from batchnorm.lab.thumbnails import samples

RNG = np.random.default_rng(8)


def decode(address):
    """Read the PNGs we write: checks each chunk's sum, undoes any row filter of type 0 to 2."""
    head, _, text = address.partition(",")
    assert head == "data:image/png;base64"
    raw = base64.b64decode(text, validate=True)
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(raw):
        (length,) = struct.unpack_from(">I", raw, at)
        kind, body = raw[at + 4 : at + 8], raw[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", raw, at + 8 + length) == (zlib.crc32(kind + body),)
        chunks[kind], at = body, at + 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, rest) == (8, [0, 0, 0])
    channels = {0: 1, 2: 3}[colour]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    image = np.zeros((height, width * channels), np.uint8)
    for y, (kind, line) in enumerate(zip(rows[:, 0], rows[:, 1:], strict=True)):
        line = line.copy()
        if kind == 1:
            line = np.cumsum(line.reshape(width, channels), axis=0, dtype=np.uint8).reshape(-1)
        elif kind == 2 and y:
            line += image[y - 1]
        image[y] = line
    return image.reshape(height, width, channels)


def dataset(x, scaling=None):
    y = torch.arange(len(x)) % 2
    part = Split(x if scaling is None else scaling.apply(x), y)
    return assemble("own", ("a", "b"), (part, part, part), scaling)


def test_pixels_come_back_exactly():
    x = RNG.integers(0, 256, (9, 3, 7, 5)).astype(np.uint8)
    x[0, 0, 0, :2] = 0, 255
    lines = samples(dataset(x, Scaling.fit(x)))
    assert [line["index"] for line in lines] == list(range(9))
    assert [line["label"] for line in lines] == [i % 2 for i in range(9)]
    for line, image in zip(lines, x, strict=True):
        assert (line["kind"], line["features"]) == ("sample", None)
        assert np.array_equal(decode(line["image"]), image.transpose(1, 2, 0))


def test_digits_are_recognisable_and_small():
    digits = data.load("digits")
    lines = samples(digits)
    assert len(lines) == 360
    assert [line["label"] for line in lines] == digits.test.y.tolist()
    first = decode(lines[0]["image"])
    assert first.shape == (32, 32, 1)
    np.testing.assert_allclose(first[..., 0], digits.scaling.undo(digits.test.x[:1])[0, 0] * 255, atol=0.51)


def test_a_large_test_set_is_sampled_in_order_and_always_alike():
    x = torch.zeros(1000, 1, 4, 4)
    chosen = [line["index"] for line in samples(dataset(x), limit=50)]
    assert len(set(chosen)) == 50
    assert chosen == sorted(chosen)
    assert max(chosen) > 500
    assert chosen == [line["index"] for line in samples(dataset(x), limit=50)]


def test_large_noise_fits_the_page():
    for shape in ((3, 32, 32), (3, 96, 64)):
        x = torch.from_numpy(RNG.random((400, *shape), np.float32))
        lines = samples(dataset(x))
        assert len(lines) == 400
        assert sum(len(line["image"]) for line in lines) <= 1_200_000
        height, width, _ = decode(lines[0]["image"]).shape
        assert abs(height / width - shape[1] / shape[2]) < 0.1
        assert max(height, width) >= 24


def test_any_number_of_channels_is_grey():
    x = torch.tensor([[[[0.0, 1.0]], [[0.0, 0.0]]]]).repeat(2, 1, 1, 1)
    assert decode(samples(dataset(x))[0]["image"])[..., 0].tolist() == [[0, 128]]


def test_range_is_that_of_training_and_one_value_divides_nothing():
    y = torch.tensor([0, 1])
    low, high = torch.zeros(2, 1, 1, 1), torch.tensor([-5.0, 5.0]).reshape(2, 1, 1, 1)
    flat = assemble("own", ("a", "b"), (Split(low, y), Split(low, y), Split(high, y)))
    assert [int(decode(line["image"]).item()) for line in samples(flat)] == [0, 255]


def test_features_are_the_first_eight_as_they_were():
    x = RNG.normal(100, 20, (6, 12))
    lines = samples(dataset(x, Scaling.fit(x)))
    assert lines[2]["image"] is None
    np.testing.assert_allclose(lines[2]["features"], x[2, :8], rtol=1e-5)
    assert samples(dataset(torch.ones(2, 3)))[0]["features"] == [1.0, 1.0, 1.0]
