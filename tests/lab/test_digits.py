import numpy as np
import torch
from sklearn.datasets import load_digits

from batchnorm.lab import digits


def test_every_digit_is_in_one_split_and_unchanged_but_larger():
    data = digits.load()
    parts = (data.train, data.validation, data.test)
    assert [len(part.y) for part in parts] == [1077, 360, 360]
    assert data.input_shape == (1, 32, 32)
    assert data.class_names == tuple("0123456789")
    coordinates = (np.arange(32) + 0.5) / 4 - 0.5
    upsample = np.stack([np.interp(coordinates, np.arange(8), row) for row in np.eye(8)], axis=1)
    bunch = load_digits()
    expected = zip(upsample @ (bunch.images / 16) @ upsample.T, bunch.target, strict=True)
    found = [
        (image[0], label)
        for part in parts
        for image, label in zip(data.scaling.undo(part.x), part.y, strict=True)
    ]
    assert sorted(map(_key, found)) == sorted(map(_key, expected))


def _key(sample):
    image, label = sample
    # Multiples of 1/1024 by construction, so rounding tells them apart and forgives float32.
    return np.round(image * 1024).astype(int).tobytes(), int(label)


def test_classes_are_in_proportion():
    data = digits.load()
    for part in (data.train, data.validation, data.test):
        share = part.y.bincount(minlength=10) / len(part.y)
        assert (share - 0.1).abs().max() < 0.01


def test_training_split_is_standardised():
    data = digits.load()
    assert abs(float(data.train.x.double().mean())) < 1e-6
    assert abs(float(data.train.x.double().std(correction=0)) - 1) < 1e-6


def test_loading_twice_gives_the_same_bytes_whatever_the_threads_and_seeds():
    first = digits.load().digest
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        torch.manual_seed(1)
        np.random.seed(1)
        assert digits.load().digest == first
    finally:
        torch.set_num_threads(threads)


def test_digits_are_averaged_to_their_own_size_and_other_images_left():
    data = digits.load().test
    small = digits.native("digits", data)
    blocks = data.x.double().numpy().reshape(360, 1, 8, 4, 8, 4).mean((3, 5))
    assert np.abs(small.x.numpy() - blocks).max() < 1e-5
    assert torch.equal(small.y, data.y)
    assert digits.native("mnist", data) is data
