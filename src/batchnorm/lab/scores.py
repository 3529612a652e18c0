"""Loss, accuracy and confusion of outputs that were gathered over a pass through the data."""

import math
from dataclasses import dataclass

from torch import Tensor, float64
from torch.nn.functional import cross_entropy
from torchmetrics.aggregation import MeanMetric
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

__all__ = ["Scores", "accuracy", "evaluate", "mean_loss"]


@dataclass(frozen=True)
class Scores:
    """What a pass over a split gave: `probabilities` is (N, classes), on the CPU."""

    loss: float
    accuracy: float
    probabilities: Tensor
    labels: Tensor

    def confusion(self) -> list[list[int]]:
        """Rows are labels, columns predictions."""
        classes = self.probabilities.shape[1]
        return multiclass_confusion_matrix(self.probabilities, self.labels, classes).tolist()


def evaluate(outputs: Tensor, labels: Tensor) -> Scores:
    """Score the network's outputs (N, classes) against the labels (N,)."""
    outputs, labels = outputs.float().cpu(), labels.cpu()
    losses = cross_entropy(outputs, labels, reduction="none")
    return Scores(
        loss=mean_loss(losses),
        accuracy=accuracy(outputs, labels),
        probabilities=outputs.softmax(dim=1),
        labels=labels,
    )


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """The share of samples whose largest output is at their label."""
    outputs, labels = outputs.cpu(), labels.cpu()
    # Rounded, because it is a float32: 0.9611111283 looks like more than it is.
    return round(multiclass_accuracy(outputs, labels, outputs.shape[1], average="micro").item(), 6)


def mean_loss(losses: Tensor, sizes: Tensor | float = 1.0) -> float:
    """The mean over samples, of losses a sample, or of means over batches of the given sizes.

    Not finite where a loss is not: torchmetrics would leave such a loss out.
    """
    if not losses.isfinite().all():
        return math.nan
    # Its way to keep NaN, nan_strategy="disable", forgets the weights (torchmetrics 1.9).
    metric = MeanMetric()
    metric.set_dtype(float64)
    metric.update(losses, sizes)
    return metric.compute().item()
