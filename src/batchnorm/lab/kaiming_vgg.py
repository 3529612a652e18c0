"""The VGG-like network with He's first weights, with which it trains also without normalization."""

import torch
from torch import nn

from batchnorm.lab.models import construct, noisy
from batchnorm.lab.splits import Dataset

__all__ = ["NORMS", "kaiming_vgg"]

NORMS = tuple(f"features.norm{stage}_{place}" for stage in (1, 2, 3) for place in (1, 2))


def kaiming_vgg(arm: str, data: Dataset, seed: int) -> nn.Module:
    """Build it: three stages of two convolutions; weights N(0, 2 / fan in), biases 0.

    Args:
        arm: a norm's name, or "noisy" for batch norm with noise behind it.
        data: what it is to be trained on.
        seed: of the weights; all arms of a seed start from the same ones.

    Returns:
        From (N, C, H, W): logits (N, classes). Norms, or identities without, stand at `NORMS`.

    Example:
        >>> from batchnorm.lab.data import load
        >>> net = kaiming_vgg("none", load("digits"), 0)
        >>> {type(net.get_submodule(path)).__name__ for path in NORMS}
        {'Identity'}

    Source: He et al. 2015, arXiv:1502.01852 (weights); Simonyan & Zisserman 2015, arXiv:1409.1556 (network).
    """
    norm = noisy() if arm == "noisy" else arm
    net = construct("vgg", norm, input_shape=data.input_shape, num_classes=data.num_classes)
    torch.manual_seed(seed)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return net
