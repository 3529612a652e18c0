import numpy as np
import pytest
import torch

from batchnorm.lab.scaling import Scaling

RNG = np.random.default_rng(5)


def test_images_are_standardised_a_channel():
    x = RNG.normal([3.0, -20.0], [0.1, 50.0], (2500, 7, 5, 2)).transpose(0, 3, 1, 2)
    out = Scaling.fit(x).apply(x)
    assert out.dtype == torch.float32
    assert out.shape == x.shape
    torch.testing.assert_close(out.double().mean((0, 2, 3)), torch.zeros(2).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        out.double().std((0, 2, 3), correction=0), torch.ones(2).double(), atol=1e-6, rtol=0
    )


def test_features_are_standardised_each():
    x = RNG.normal([0.0, 1e6, 7.0], [1.0, 1.0, 1e-3], (3000, 3))
    out = Scaling.fit(x).apply(x).double()
    torch.testing.assert_close(out.mean(0), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(out.std(0, correction=0), torch.ones(3).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 / 3])
def test_a_constant_feature_becomes_zero_and_divides_nothing(value):
    train = np.stack([np.full(1500, value, np.float32), np.arange(1500, dtype=np.float32)], axis=1)
    scaling = Scaling.fit(train)
    assert scaling.apply(train)[:, 0].abs().max() < 1e-6
    assert scaling.std[0] == 1.0
    other = scaling.apply(train[:1] + np.float32(2))
    assert 1.9 < other[0, 0] < 2.1


def test_other_splits_are_scaled_by_training_alone():
    scaling = Scaling.fit(np.array([[0.0], [2.0]]))
    assert scaling.apply(np.array([[5.0]])).tolist() == [[4.0]]


def test_eight_bit_images_count_in_255ths_and_come_back():
    x = RNG.integers(0, 256, (1100, 3, 4, 4)).astype(np.uint8)
    scaling = Scaling.fit(x)
    assert scaling.unit == 1 / 255
    np.testing.assert_allclose(scaling.undo(scaling.apply(x)), x / 255, atol=1e-6)
    assert Scaling.fit(x[:, :, 0, 0]).unit == 1.0
