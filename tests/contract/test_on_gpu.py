"""The case table on an accelerator; skipped, and said so, where there is none."""

import dataclasses

import pytest
import torch

from tests.contract.bounds import assert_output
from tests.contract.cases import CASES, Case, Tensors, make
from tests.contract.test_operators_agree import reference, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def moved(given: Tensors, device: str) -> Tensors:
    values = {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
    return Tensors(**{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in values.items()})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_running_statistics(case: Case) -> None:
    given = make(case)
    expected = reference(case, given)
    there = moved(given, "cuda")
    assert_output(run(case, there).cpu(), expected)
    if case.training and case.running:
        run(case, given)
        torch.testing.assert_close(there.running_mean.cpu(), given.running_mean, rtol=2e-7, atol=2e-7)
        torch.testing.assert_close(there.running_var.cpu(), given.running_var, rtol=2e-7, atol=2e-7)
