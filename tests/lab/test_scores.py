import math

import pytest
import torch

from batchnorm.lab import scores


def test_loss_accuracy_and_confusion_of_known_outputs():
    outputs = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    found = scores.evaluate(outputs, labels)
    terms = [math.log1p(math.exp(-2)), math.log(2), math.log1p(math.exp(-2)), math.log1p(math.exp(3))]
    assert found.loss == pytest.approx(sum(terms) / 4, rel=1e-6)
    assert found.accuracy == 0.75
    assert found.confusion() == [[2, 0], [1, 1]]
    torch.testing.assert_close(found.probabilities.sum(dim=1), torch.ones(4))


def test_means_of_batches_are_weighted_by_their_sizes():
    assert scores.mean_loss(torch.tensor([1.0, 4.0]), torch.tensor([3, 1])) == pytest.approx(1.75)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_not_left_out_of_the_mean(bad):
    assert not math.isfinite(scores.mean_loss(torch.tensor([1.0, bad])))


def test_outputs_in_half_precision_are_scored_in_single():
    outputs = torch.tensor([[8.0, 0.0], [0.0, 8.0]], dtype=torch.bfloat16)
    assert scores.evaluate(outputs, torch.tensor([0, 1])).loss == pytest.approx(
        math.log1p(math.exp(-8)), rel=1e-4
    )
