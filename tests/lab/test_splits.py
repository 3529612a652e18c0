import numpy as np
import pytest
import torch

from batchnorm.lab.splits import Split, assemble, hold_out


def split_of(*values):
    return Split(torch.tensor(values).float().reshape(-1, 1), torch.arange(len(values)))


def test_hold_out_keeps_every_class_in_proportion():
    y = np.repeat([0, 1, 2], [20, 40, 60])
    stay, out = hold_out(y, 0.25)
    assert np.bincount(y[out]).tolist() == [5, 10, 15]
    assert sorted([*stay, *out]) == list(range(120))
    assert (np.diff(stay) > 0).all()
    assert (np.diff(out) > 0).all()


def test_hold_out_is_fixed_by_its_seed():
    y = np.arange(100) % 2
    assert np.array_equal(hold_out(y, 0.1)[1], hold_out(y, 0.1)[1])
    assert not np.array_equal(hold_out(y, 0.1)[1], hold_out(y, 0.1, seed=1)[1])


@pytest.mark.parametrize("y", [[0, 0, 0, 0, 1], [0, 1], [0, 0, 1, 1]], ids=["single", "two", "too-few"])
def test_hold_out_works_where_proportion_is_impossible(y):
    stay, out = hold_out(np.array(y), 0.1)
    assert len(out) == 1
    assert len(stay) == len(y) - 1


def test_digest_sees_content_order_and_split():
    one, two, three = split_of(1, 2), split_of(3, 4), split_of(5, 6)
    base = assemble("a", ("x", "y"), (one, two, three)).digest
    assert len(base) == 64
    assert assemble("b", ("x", "y"), (one, two, three)).digest == base
    assert assemble("a", ("x", "y"), (two, one, three)).digest != base
    assert assemble("a", ("x", "y"), (one, two, split_of(5, 7))).digest != base
    flat = Split(three.x.reshape(2, 1, 1, 1), three.y)
    assert assemble("a", ("x", "y"), (one, two, flat)).digest != base


def test_digest_does_not_depend_on_memory_layout():
    x = torch.arange(24.0).reshape(2, 3, 2, 2)
    y = torch.tensor([0, 1])
    plain, strided = Split(x, y), Split(x.to(memory_format=torch.channels_last), y)
    digests = {assemble("a", ("x", "y"), (part, part, part)).digest for part in (plain, strided)}
    assert len(digests) == 1
