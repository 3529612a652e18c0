import operator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from batchnorm.surgery.hidden import is_activation_call, is_gate_call, is_in_place, is_product

X = torch.zeros(2)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "expected"),
    [
        (F.relu, (X,), {}, True),
        (torch.relu_, (X,), {}, True),
        (Tensor.tanh, (X,), {}, True),
        ("sigmoid_", (X,), {}, True),
        (F.gelu, (X,), {}, True),
        (torch.clamp, (X, 0), {}, True),
        ("clamp", (X,), {"min": 0.0}, True),
        (torch.clamp_min, (X, 0), {}, True),
        (torch.clamp, (X, 0, 6), {}, False),
        ("clamp", (X,), {"max": 0}, False),
        (torch.clamp, (X, 1), {}, False),
        (F.softmax, (X,), {}, False),
        (F.glu, (X,), {}, False),
        (torch.exp, (X,), {}, False),
        (operator.add, (X, X), {}, False),
    ],
)
def test_activation_calls(function, args, kwargs, expected):
    assert is_activation_call(function, args, kwargs) is expected


def test_gates_and_products():
    assert is_gate_call(torch.sigmoid)
    assert not is_gate_call(torch.relu)
    operators = frozenset({operator.mul})
    assert all(is_product(f, operators) for f in (operator.mul, torch.mul, "mul_", Tensor.__mul__))
    assert not is_product(torch.add, operators)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "expected"),
    [
        (F.relu, (X,), {}, False),
        (F.relu, (X, True), {}, True),
        (F.relu, (X,), {"inplace": True}, True),
        (F.leaky_relu, (X, 0.1, True), {}, True),
        (F.leaky_relu, (X, 0.1), {"inplace": False}, False),
        ("relu_", (X,), {}, True),
        (torch.tanh, (X,), {}, False),
    ],
)
def test_in_place(function, args, kwargs, expected):
    assert is_in_place(function, kwargs, args) is expected
