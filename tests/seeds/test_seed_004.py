"""Golden values of the walkthrough (seed 004): printed tensors, statistics, shapes and reprs."""

import torch
from torch import nn

import batchnorm as bn

IMG = torch.tensor(
    [
        [[[0.6728, 0.8347], [0.5499, 0.0040]], [[0.8692, 0.8842], [0.1897, 0.7183]]],
        [[[0.0265, 0.7271], [0.7613, 0.5915]], [[0.1974, 0.0166], [0.1354, 0.7594]]],
    ]
)
PRINTED = torch.tensor(
    [
        [[[0.4995, 1.0321], [0.0950, -1.7004]], [[1.1568, 1.2002], [-0.8185, 0.7181]]],
        [[[-1.6266, 0.6780], [0.7904, 0.2320]], [[-0.7961, -1.3217], [-0.9762, 0.8375]]],
    ]
)


def test_the_printed_output() -> None:
    # The inputs were printed with four decimals, so the outputs agree to 1.45e-4 only.
    torch.testing.assert_close(bn.BatchNorm2d(2, momentum=1)(IMG), PRINTED, rtol=0, atol=3.5e-4)


def test_running_statistics_are_the_means_and_the_unbiased_variances() -> None:
    layer = bn.BatchNorm2d(2, momentum=1)
    layer(IMG)
    torch.testing.assert_close(layer.running_mean, torch.tensor([0.520975, 0.471275]), rtol=0, atol=1e-6)
    torch.testing.assert_close(layer.running_var, torch.tensor([0.105614, 0.135246]), rtol=0, atol=1e-6)
    assert [f"{value:.4f}" for value in layer.running_mean] == ["0.5210", "0.4713"]
    assert [f"{value:.4f}" for value in layer.running_var] == ["0.1056", "0.1352"]
    assert layer.num_batches_tracked == 1
    assert list(layer.state_dict()) == [
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "num_batches_tracked",
    ]


def test_the_networks_have_the_printed_shapes() -> None:
    images = torch.rand(100, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.AvgPool2d(2, 2), bn.BatchNorm2d(16))
    second = nn.Sequential(
        *first, nn.Conv2d(16, 8, 3, padding=1), nn.AvgPool2d(2, 2), bn.BatchNorm2d(8), nn.ReLU()
    )
    third = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        bn.BatchNorm2d(16),
        nn.Flatten(),
        nn.ReLU(),
        nn.Linear(16 * 28 * 28, 24),
        bn.BatchNorm1d(24),
        nn.ReLU(),
    )
    fourth = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), bn.BatchNorm2d(16, momentum=0.1))
    shapes = [tuple(network(images).shape) for network in (first, second, third, fourth)]
    assert shapes == [(100, 16, 14, 14), (100, 8, 7, 7), (100, 24), (100, 16, 28, 28)]


def test_the_printed_reprs() -> None:
    # torch 2.13 shows `bias=` too, which the walkthrough's torch did not have.
    shown = [repr(bn.BatchNorm2d(100)), repr(bn.BatchNorm2d(100, affine=False))]
    plain = [text.replace("bias=True, ", "").replace("bias=False, ", "") for text in shown]
    assert plain == [
        "BatchNorm2d(100, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)",
        "BatchNorm2d(100, eps=1e-05, momentum=0.1, affine=False, track_running_stats=True)",
    ]
