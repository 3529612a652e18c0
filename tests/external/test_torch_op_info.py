"""torch's own cases for nn.functional.batch_norm (torch.testing._internal.common_methods_invocations)."""

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_map

import batchnorm as bn

(INFO,) = [op for op in op_db if op.name == "nn.functional.batch_norm" and not op.variant_test_name]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def samples(dtype: torch.dtype, requires_grad: bool = False):
    found = list(INFO.sample_inputs("cpu", dtype, requires_grad=requires_grad))
    assert len(found) >= 10
    return found


def copied(args):
    return tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf, args)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_output_and_running_statistics(dtype) -> None:
    for sample in samples(dtype):
        mine, theirs = copied(sample.args), copied(sample.args)
        actual = bn.functional.batch_norm(sample.input, *mine, **sample.kwargs)
        expected = INFO.op(sample.input, *theirs, **sample.kwargs)
        tolerance = {"rtol": 2e-2, "atol": 3e-2} if dtype.itemsize == 2 else {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(actual, expected, equal_nan=True, **tolerance)
        for a, b in zip(mine[:2], theirs[:2], strict=True):
            if a is not None:
                torch.testing.assert_close(a, b, equal_nan=True, **tolerance)


def differentiable(sample):
    tensors = [sample.input, *[arg for arg in sample.args[2:] if isinstance(arg, torch.Tensor)]]
    return tuple(tensor for tensor in tensors if tensor.requires_grad)


@pytest.mark.parametrize("order", [1, 2])
def test_gradients(order) -> None:
    check = torch.autograd.gradcheck if order == 1 else torch.autograd.gradgradcheck
    for sample in samples(torch.float64, requires_grad=True):
        if sample.input.numel() == 0:
            continue

        def call(x, *affine, sample=sample):
            running = copied(sample.args[:2])
            return bn.functional.batch_norm(x, *running, *affine, **sample.kwargs)

        assert check(call, differentiable(sample))


def test_forward_mode_gradients() -> None:
    for sample in samples(torch.float64, requires_grad=True):
        if sample.input.numel() == 0:
            continue

        def call(x, *affine, sample=sample):
            return bn.functional.batch_norm(x, *copied(sample.args[:2]), *affine, **sample.kwargs)

        assert torch.autograd.gradcheck(
            call,
            differentiable(sample),
            check_forward_ad=True,
            check_backward_ad=False,
            check_batched_grad=False,
        )
