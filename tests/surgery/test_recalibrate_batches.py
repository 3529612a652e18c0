"""What may be given as data to recalibrate from."""

import pytest
import torch

import batchnorm as bn
from tests.surgery.test_recalibrate import assert_consistent, assert_stats, data, network


@pytest.mark.parametrize(
    "batch",
    [
        lambda x: x,
        lambda x: (x, torch.zeros(len(x))),
        lambda x: [x, torch.zeros(len(x)), "name"],
        lambda x: {"input": x},
        lambda x: ({"input": x}, torch.zeros(len(x))),
    ],
)
def test_forms_of_a_batch(batch):
    x = data(20, 2)
    assert_stats(bn.recalibrate(bn.BatchNorm1d(2), [batch(part) for part in x.split(6)]), x)


def test_a_lone_tensor_or_dict_is_one_batch_and_batches_limits():
    x = data(20, 2)
    assert_stats(bn.recalibrate(bn.BatchNorm1d(2), x), x)
    assert_stats(bn.recalibrate(bn.BatchNorm1d(2), {"input": x}), x)
    assert_stats(bn.recalibrate(bn.BatchNorm1d(2), x.split(3), 4), x[:12])
    assert_stats(bn.recalibrate(bn.BatchNorm1d(2), x.split(3), batches=100), x)
    taken = iter(x.split(3))
    bn.recalibrate(bn.BatchNorm1d(2), taken, 4)
    assert torch.equal(next(taken), x[12:15])


def test_a_loader_that_shuffles_gives_every_pass_the_same_batches():
    x, net = data(64, 3, 8, 8), network()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=16, shuffle=True)
    torch.manual_seed(3)
    new = bn.recalibrate(net, loader, 2)
    seen = torch.cat([batch[0] for batch, _ in zip(loader, range(2), strict=False)])
    assert_consistent(new, seen)
