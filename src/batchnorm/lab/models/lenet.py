"""LeNet, the network of the comparison's first question."""

import torch
from torch import Tensor, nn

from batchnorm.lab.models.network import Plan, Recipe

__all__ = ["LENET", "LeNet"]


class LeNet(nn.Module):
    """Two convolutions with pooling and norm, then three fully connected layers.

    After the activation a stage is conv, relu, pool, norm; before it, conv, norm, relu, pool.

    Args:
        plan: what to build; images of at least 16x16.

    Returns:
        From (N, C, H, W): logits (N, num_classes).

    Example:
        >>> import torch
        >>> from batchnorm.lab.arms import norm_layer
        >>> plan = Plan((3, 32, 32), 10, "after", 0.0, lambda c, d: norm_layer("batch", c, d), {})
        >>> LeNet(plan)(torch.randn(4, 3, 32, 32)).shape
        torch.Size([4, 10])

    Source:
        LeCun et al. 1998, as Saurav Maheshkar wrote it for "Normalization Series: What is Batch Norm?"
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        channels, height, width = plan.input_shape
        self.norm_first = plan.placement == "before"
        self.conv1 = nn.Conv2d(channels, 6, 5)
        self.norm1 = plan.norm(6, 4)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.norm2 = plan.norm(16, 4)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1 = nn.Linear(16 * _left(height) * _left(width), 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, plan.num_classes)
        self.dropout = nn.Dropout(plan.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self._stage(self.conv1(x), self.norm1)
        x = self._stage(self.conv2(x), self.norm2)
        x = torch.flatten(x, 1)
        x = self.relu(self.fc1(x))
        x = self.relu(self.fc2(self.dropout(x)))
        return self.fc3(self.dropout(x))

    def _stage(self, x: Tensor, norm: nn.Module) -> Tensor:
        if self.norm_first:
            return self.pool(self.relu(norm(x)))
        return norm(self.pool(self.relu(x)))


def _left(size: int) -> int:
    return ((size - 4) // 2 - 4) // 2


LENET = Recipe(LeNet, least=lambda _: 16)
