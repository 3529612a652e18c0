"""The handwritten digits that come with scikit-learn."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from batchnorm.lab.scaling import Scaling
from batchnorm.lab.splits import Dataset, Split, assemble, hold_out

__all__ = ["load", "native"]


def load() -> Dataset:
    """Load 1797 real handwritten digits, 8x8, upsampled to 32x32 and standardised.

    32x32 is the size that LeNet's `16 * 5 * 5` was made for; the upsampling is bilinear, so it adds
    pixels and no information. Pixels are scaled to [0, 1], then standardised with the training split's
    mean and standard deviation. Without that last step the LeNet without batch norm stays near chance
    for the first two epochs at learning rate 0.1, and batch norm's lead looks larger than it is.

    Returns:
        1077 training, 360 validation and 360 test samples of shape (1, 32, 32), split by a fixed seed
        with every class in proportion.

    Source: scikit-learn's `load_digits`, the test half of E. Alpaydin and C. Kaynak, Optical Recognition
    of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """
    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16
    images = interpolate(pixels, size=(32, 32), mode="bilinear", align_corners=False).numpy()
    labels = torch.from_numpy(bunch.target).long()
    rest, test = hold_out(bunch.target, 0.2)
    stay, aside = hold_out(bunch.target[rest], 0.25)
    train, validation = rest[stay], rest[aside]
    scaling = Scaling.fit(images[train])

    def split(rows: np.ndarray) -> Split:
        return Split(scaling.apply(images[rows]), labels[rows])

    return assemble("digits", tuple("0123456789"), (split(train), split(validation), split(test)), scaling)


def native(name: str, split: Split) -> Split:
    """The digits averaged to 8x8, a little smoother than they came; images of other sets as they are.

    Args:
        name: of the data set.
        split: of that set.

    Example:
        >>> tuple(native("digits", load().test).x.shape)
        (360, 1, 8, 8)
    """
    return Split(adaptive_avg_pool2d(split.x, 8), split.y) if name == "digits" else split
