"""10,000 random calls against float64: shapes, types, layouts, options, layers, and values from 1e-30 to 1e30.

BATCHNORM_SEED=7 draws others. A failure names the number that draws it again: `check(draw(number))`.
"""

import os

import pytest

from tests.reliability.checking import check
from tests.reliability.draws import draw

SEED = int(os.environ.get("BATCHNORM_SEED", "0"))
BLOCK = 1000
BLOCKS = [pytest.param(block, marks=[pytest.mark.slow] if block > 2 else []) for block in range(10)]


@pytest.mark.parametrize("block", BLOCKS)
def test_random_calls_keep_the_contract(block: int) -> None:
    failures = []
    for number in range(BLOCK):
        case = draw(SEED * 1_000_000 + block * BLOCK + number)
        try:
            check(case)
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}\n    {case}")
    assert not failures, f"BATCHNORM_SEED={SEED}: {len(failures)} of {BLOCK}\n" + "\n".join(failures[:5])


def test_the_seed_is_told_and_draws_the_same() -> None:
    assert draw(5) == draw(5)
    assert "seed=5" in str(draw(5))
    kinds = {draw(number).kind for number in range(200)}
    assert kinds == {"function", "BatchNorm", "SyncBatchNorm", "FrozenBatchNorm", "DomainBatchNorm"}
