"""Ghost batch norm against the float64 definition over the case table: each virtual batch, within the same bounds."""

import pytest
import torch

import batchnorm as bn
from tests.contract.bounds import assert_output
from tests.contract.cases import CASES, Case, make
from tests.contract.oracle import Result, oracle

pytestmark = pytest.mark.usefixtures("on")

KINDS = {2: bn.GhostBatchNorm1d, 3: bn.GhostBatchNorm1d, 4: bn.GhostBatchNorm2d, 5: bn.GhostBatchNorm3d}
FITTING = [case for case in CASES if case.training and case.layout != "last_dim" and case.shape[0] >= 4]
SIZE = 2  # divides the batches of the table: no samples remain


@pytest.mark.parametrize("case", FITTING, ids=str)
def test_output(case: Case) -> None:
    given = make(case)
    samples = case.shape[0] // SIZE * SIZE
    x = given.x[:samples]
    layer = KINDS[x.dim()](
        x.size(1),
        affine=case.affine != "none",
        bias=case.affine == "both",
        track_running_stats=case.running,
        dtype=case.dtype,
        virtual_batch_size=SIZE,
    )
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(getattr(given, name))
    residual = None if given.residual is None else given.residual[:samples]
    mask = None if given.mask is None else given.mask[:samples]
    actual = layer(x, residual, act=case.act, mask=mask)
    groups = samples // SIZE
    for group in range(groups):
        kept = slice(group, None, groups)
        expected: Result = oracle(
            x[kept],
            weight=given.weight,
            bias=given.bias,
            residual=None if residual is None else residual[kept],
            act=case.act,
            mask=None if mask is None else mask[kept],
        )
        assert_output(actual[kept], expected)
