import math

import pytest
import torch
from torch import nn

from batchnorm.errors import ArgumentError, ArgumentTypeError
from batchnorm.probes.steps import checked_steps, spread, stepped


def test_steps_are_numbers_from_any_sequence():
    assert checked_steps(torch.tensor([0.5, 2.0])) == checked_steps((0.5, 2)) == [0.5, 2.0]


@pytest.mark.parametrize("steps", [[], [0.1, math.nan], [math.inf]])
def test_no_step_or_one_that_is_not_finite_is_refused(steps):
    with pytest.raises(ArgumentError, match="steps: expected one finite number or more"):
        checked_steps(steps)


@pytest.mark.parametrize("steps", [0.1, None, ["far"], torch.tensor(0.1)])
def test_what_holds_no_numbers_is_refused(steps):
    with pytest.raises(ArgumentTypeError, match="steps: expected a sequence of numbers"):
        checked_steps(steps)


def fail():
    raise LookupError


def test_the_step_and_the_way_back():
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    with stepped([parameter], [torch.tensor([3.0, 4.0])], 0.5) as distance:
        assert (distance, parameter.tolist()) == (2.5, [-0.5, 0.0])
    assert parameter.tolist() == [1.0, 2.0]
    with pytest.raises(LookupError), stepped([parameter], [torch.tensor([3.0, 4.0])], -1.0):
        fail()
    assert parameter.tolist() == [1.0, 2.0]


def test_a_range_with_nan_is_nan():
    assert spread(torch.tensor([2.0, 1.0])) == (1, 2)
    assert all(map(math.isnan, spread(torch.tensor([2.0, math.nan]))))
