"""Each kind of call over several ranks equals batch norm of the joined batch by definition, in float64."""

import pytest
import torch

from tests.distributed.parts import Case, of_the_whole, on_this_rank

CASES = [
    Case(sizes=(3, 3, 3, 3)),
    Case(),
    Case(sizes=(0, 7, 0, 0)),
    Case(sizes=(1, 1, 0, 0)),
    Case(positions=(5,), mask=True),
    Case(positions=(5,), residual=True, act="silu"),
    Case(positions=(4, 3), residual=True, act="relu"),
    Case(positions=(4, 3), channels_last=True, mask=True, residual=True, act="relu"),
    Case(positions=(2, 4, 3), channels_last=True, act="gelu"),
    Case(positions=(2, 4, 3), residual=True, mask=True, act="elu"),
    Case(positions=(4, 3), affine=False),
    Case(positions=(4, 3), dtype=torch.bfloat16, residual=True, act="relu"),
    Case(positions=(4, 3), dtype=torch.float64, mask=True, act="hardswish"),
    Case(positions=(4, 3), shift=1e6),
    Case(positions=(4, 3), shift=1e6, gather_up_to=1),
    Case(positions=(4, 3), backend="reference", residual=True, mask=True, act="silu"),
    Case(gather_up_to=1),
    Case(sizes=(0, 7, 0, 0), gather_up_to=1),
    Case(positions=(4, 3), gather_up_to=1, mask=True, residual=True, act="relu"),
]


def joined(numbers, name):
    parts = [getattr(part, name) for part in numbers]
    return None if parts[0] is None else torch.cat(parts)


def summed(numbers, name):
    parts = [getattr(part, name) for part in numbers]
    return None if parts[0] is None else sum(part.double() for part in parts)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_ranks_together_are_one_batch(world, case) -> None:
    found, expected = world.run(on_this_rank, case), of_the_whole(case)
    # One rounding to 8 bits; sums of weight and bias gradients are rounded on each rank.
    bound = 1e-2 if case.dtype == torch.bfloat16 else 1e-6
    close = {"rtol": bound, "atol": bound * (4 if case.shift == 1e6 else 1), "check_dtype": False}
    for name in ("output", "x", "residual"):
        torch.testing.assert_close(
            joined(found, name),
            getattr(expected, name),
            **close,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    for name in ("weight", "bias"):
        torch.testing.assert_close(
            summed(found, name),
            getattr(expected, name),
            **close,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    for part in found:
        # Running statistics are float32: 1e-6 of 1e6 is their rounding.
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(
                getattr(part, name).double(), getattr(expected, name), rtol=1e-6, atol=1e-6
            )
            assert torch.equal(getattr(part, name), getattr(found[0], name))
        assert part.tracked == 1
