"""A rank that is gone, or does not come, is an error on the others and no hang."""

import os
import time

import torch
import torch.distributed as dist

import batchnorm as bn
from tests.distributed.world import World

TIMEOUT = 5


def dies_before_backward():
    x = torch.randn(4, 3, requires_grad=True)
    loss = bn.SyncBatchNorm(3)(x).sum()
    if dist.get_rank() == 1:
        os._exit(1)
    loss.backward()


def does_not_come():
    if dist.get_rank() == 0:
        bn.SyncBatchNorm(3)(torch.randn(4, 3))


def outcomes(function, folder):
    group = World(2, folder, timeout=TIMEOUT)
    try:
        start = time.monotonic()
        return group.outcomes(function), time.monotonic() - start
    finally:
        group.close()


def test_a_rank_that_dies(tmp_path) -> None:
    ((how, text), died), _ = outcomes(dies_before_backward, tmp_path)
    assert died == ("died", None)
    assert how == "raised"
    assert "RuntimeError" in text
    assert "reducers.py" in text


def test_a_rank_that_does_not_come(tmp_path) -> None:
    ((how, text), other), waited = outcomes(does_not_come, tmp_path)
    assert other == ("returned", None)
    assert how == "raised"
    assert "Timed out waiting" in text
    assert waited < 10 * TIMEOUT  # the group's default is half an hour
