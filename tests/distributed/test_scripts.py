"""The example that a reader starts, and the benchmark of the collectives."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_example_shows_equal_statistics_with_sync_alone() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(ROOT / "examples/ddp_sync.py")],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    alone, sync = re.findall(r"accuracy (.+)%, running means of the ranks differ by (.+)", done.stdout)
    assert float(alone[1]) > 0.01
    assert float(sync[1]) == 0
    assert float(sync[0]) > float(alone[0])


def test_the_model_counts_messages_and_bytes() -> None:
    cost = script(ROOT / "benchmarks/sync_cost.py")
    assert cost.gather(8, 10) == (7, 7 * 80)
    assert cost.reduction(8, 10) == (14, 14 * 10)
    assert cost.tree_reduction(1024, 10) == (20, 160)
    assert cost.forward_gathering(8, 4) == cost.gather(8, 10)
    assert cost.forward_reducing(8, 4) == (28, 14 * 6 + 14 * 4)


def test_alpha_and_beta_are_found_again() -> None:
    cost = script(ROOT / "benchmarks/sync_cost.py")
    times = {
        (name, 4, channels): cost.seconds(step(4, channels), 3e-5, 2e-9)
        for name, step in cost.STEPS.items()
        for channels in (64, 4096)
    }
    assert cost.fitted(times) == pytest.approx((3e-5, 2e-9))


@pytest.mark.slow
def test_the_benchmark_measures_and_foretells() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/sync_cost.py"), "--rounds", "2", "--worlds", "2"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True).stdout
    assert len(re.findall(r"^\| 2 \| .+ \|$", shown, flags=re.MULTILINE)) == 9
    assert len(re.findall(r"^\| 1024 \| .+ \|$", shown, flags=re.MULTILINE)) == 4
