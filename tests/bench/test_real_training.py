"""The script behind the README's table measures what it says."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
EXPECTED = {
    "checkpointing": ["2", "1"],
    "nan_batch": ["100%", "0%"],
    "overflow": ["inf", "0.99"],
    "one_sample": ["ValueError", "trains on (Frozen)"],
    "second_pass": ["2", "1"],
    "packed": ["AttributeError", "8 values normalized"],
    "cumulative_compiled": ["UserError", "3 batches counted"],
}


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import real_training

    yield real_training
    for name in ("real_training", "accumulation"):
        sys.modules.pop(name)


@pytest.mark.parametrize("name", EXPECTED)
def test_rows(script, name) -> None:
    assert getattr(script, name)() == EXPECTED[name]


def test_rows_of_errors(script) -> None:
    for name in ("large_mean", "padding", "accumulation"):
        theirs, ours = (float(said.split()[0]) for said in getattr(script, name)())
        assert ours < theirs / 2, name


@pytest.mark.slow
def test_the_whole_table() -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "real_training.py")],
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2 + 17
    assert all(line.count("|") == 4 for line in lines)
    assert "`SyncBatchNorm` on two CPU processes, 8 and 0 samples | ValueError | off by" in done.stdout
