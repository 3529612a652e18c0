"""Memory and objects do not grow over 10,000 steps, of one shape or of ever changing ones."""

import gc
import json
import os
import subprocess
import sys
import textwrap

import pytest

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

# In a process of its own, whose memory nobody else uses.
CODE = """
    import gc, json, os, sys, torch
    import batchnorm as bn

    torch.set_num_threads(1)
    steps, shapes = int(sys.argv[1]), sys.argv[2]
    plain, ghost = bn.BatchNorm2d(8), bn.GhostBatchNorm2d(8, virtual_batch_size=2)
    domain, frozen, sync = bn.DomainBatchNorm2d(8, 2), bn.FrozenBatchNorm2d(8), bn.SyncBatchNorm(8)
    layers = torch.nn.ModuleList([plain, ghost, domain, frozen, sync])
    leak = []

    def step(number):
        size = 6 if shapes == "fixed" else 2 + number % 11
        x = torch.randn(4 + (number % 3 if shapes == "changing" else 0), 8, size, size).requires_grad_()
        y = plain(x, x, act="silu", mask=x[:, 0] > -1 if number % 2 else None)
        y = domain(frozen(y), domain=number % 2, act="relu")
        if number % 7 == 0:
            y = torch.utils.checkpoint.checkpoint(ghost, y, use_reentrant=False)
        if number % 5 == 0:
            with bn.no_stats_update(layers), bn.backend("reference"):
                y = sync(y)
        if number % 50 == 0:
            (grad,) = torch.autograd.grad(plain(x).square().sum(), x, create_graph=True)
            grad.square().sum().backward()
        y.square().sum().backward()
        layers.zero_grad()
        if "leak" in sys.argv:
            leak.append(torch.zeros(10_000))

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def settle():
        gc.collect()
        return resident(), len(gc.get_objects())

    for number in range(steps // 5):  # what is made once is made: caches, the allocator's arenas
        step(number)
    before = settle()
    for number in range(steps):
        step(number)
    print(json.dumps([before, settle()]))
"""


def growth(steps: int, *options: str) -> tuple[float, int]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CODE), str(steps), *options],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout)
    return (after[0] - before[0]) / 2**20, after[1] - before[1]


@linux
@pytest.mark.slow
@pytest.mark.parametrize("shapes", ["fixed", "changing"])
def test_ten_thousand_steps(shapes) -> None:
    megabytes, objects = growth(10_000, shapes)
    assert megabytes < 8
    assert objects < 50


@linux
@pytest.mark.parametrize("shapes", ["fixed", "changing"])
def test_four_hundred_steps(shapes) -> None:
    megabytes, objects = growth(400, shapes)
    assert megabytes < 8
    assert objects < 50


@linux
def test_a_leak_of_forty_kilobytes_a_step_is_seen() -> None:
    megabytes, objects = growth(400, "fixed", "leak")
    assert megabytes > 8
    assert objects > 350


def test_a_step_leaves_no_cycles() -> None:
    import torch

    import batchnorm as bn

    layer = bn.BatchNorm2d(4)
    x = torch.randn(4, 4, 5, 5, requires_grad=True)
    layer(x, x, act="silu").sum().backward()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            layer(x, x, act="silu").sum().backward()
        assert gc.collect() == 0
    finally:
        gc.enable()
