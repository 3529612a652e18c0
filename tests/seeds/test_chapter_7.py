"""Golden values of chapter 7 of "Deep Learning with PyTorch Step-by-Step" (behind seed 000).

The book's first two batches stand in chapter_7.json, so that no test relies on the order a DataLoader draws.
"""

import json
from pathlib import Path

import pytest
import torch

import batchnorm as bn


@pytest.fixture
def batches():
    stored = json.loads(Path(__file__).with_name("chapter_7.json").read_text())
    return [torch.tensor(rows) for rows in stored["batches"]]


def close(actual, expected) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected), rtol=0, atol=6e-5)


def test_first_batch(batches) -> None:
    first = batches[0]
    close(first.mean(0), [0.9850, 1.0381])
    close(first.var(0), [1.4802, 1.1832])
    out = bn.BatchNorm1d(2, affine=False)(first)
    close(out.mean(0), [0.0, 0.0])
    close(
        out.var(0), [1.0159, 1.0159]
    )  # 64 / 63: normalized with the biased variance, measured with the unbiased


def test_cumulative_average_after_two_batches(batches) -> None:
    layer = bn.BatchNorm1d(2, affine=False, momentum=None)
    layer(batches[0]), layer(batches[1])
    close(layer.running_mean, [0.9611, 0.9964])
    close(layer.running_var, [1.4247, 1.0460])


def test_exponential_average_after_one_batch(batches) -> None:
    layer = bn.BatchNorm1d(2, affine=False)
    layer(batches[0])
    close(layer.running_mean, [0.0985, 0.1038])
    close(layer.running_var, [1.0480, 1.0183])
