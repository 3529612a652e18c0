"""Which backend serves, and what is said when the one asked for cannot."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import batchnorm as bn
from batchnorm._state import CHOICE
from batchnorm.errors import ArgumentError, BackendError
from batchnorm.ops import Affine, choice, reference, select, shared_library

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def missing(monkeypatch, tmp_path):
    """An install without kernels, whose build wrote why."""
    monkeypatch.setattr(shared_library.importlib.resources, "files", lambda _: Path(tmp_path))
    for function in (shared_library.load, shared_library._open):
        function.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    for function in (shared_library.load, shared_library._open):
        function.cache_clear()


def test_the_fastest_that_can_serve_is_taken(native) -> None:
    assert select(X, Affine()) is native
    assert select(X[:0], Affine()) is reference
    with bn.backend("reference"):
        assert select(X, Affine()) is reference
        with bn.backend("native"):
            assert select(X, Affine()) is native
        assert select(X, Affine()) is reference
    assert select(X, Affine()) is native


def test_the_choice_ends_with_its_block_also_after_an_error() -> None:
    with pytest.raises(KeyError), bn.backend("reference"):
        raise KeyError
    assert CHOICE.backend == "auto"


def test_an_unknown_backend_is_answered_with_the_known_ones() -> None:
    with (
        pytest.raises(ArgumentError, match="auto, native, reference, triton, got 'cuda'"),
        bn.backend("cuda"),
    ):
        pass


def test_a_backend_that_does_not_exist_yet() -> None:
    with pytest.raises(BackendError, match="triton backend is not available"), bn.backend("triton"):
        pass


def test_asking_for_native_where_it_cannot_be(native) -> None:
    with bn.backend("native"), pytest.raises(BackendError, match="tensors on the CPU, got one on meta"):
        choice.select(torch.zeros(4, 3, device="meta"), Affine())


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (None, "made without a C\\+\\+ compiler, or the build of it failed"),
        (
            "state: no compiler\nreason: no C++ compiler was found\n",
            "no compiler: no C\\+\\+ compiler was found",
        ),
    ],
)
def test_without_kernels_the_reference_serves_and_the_reason_is_kept(
    missing, monkeypatch, record, said
) -> None:
    if record:
        (missing / "native_build.txt").write_text(record)
    monkeypatch.delenv("BATCHNORM_REQUIRE_NATIVE", raising=False)
    assert select(X, Affine()) is reference
    found = bn.env()
    assert (found.backend, found.library, found.isa) == ("reference", None, None)
    with pytest.raises(BackendError, match=said), bn.backend("native"):
        pass
    monkeypatch.setenv("BATCHNORM_REQUIRE_NATIVE", "1")
    shared_library.load.cache_clear()
    with pytest.raises(BackendError, match="BATCHNORM_REQUIRE_NATIVE is set, but"):
        bn.BatchNorm1d(3)(X)


def test_a_library_that_does_not_load_says_why(missing) -> None:
    (missing / shared_library.FILE_NAME).write_bytes(b"not a library")
    assert "does not load" in shared_library.why_unavailable()


def env(**variables: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "batchnorm", "env", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **variables},
    )
    return done.returncode, done.stdout or done.stderr


def test_the_instruction_set_can_be_chosen(native) -> None:
    known = shared_library.require().isas
    assert known
    for isa in known:
        code, out = env(BATCHNORM_ISA=isa)
        assert code == 0
        found = json.loads(out)
        assert found["isa"] == isa
        assert found["why"] == f"BATCHNORM_ISA={isa}"
    code, out = env(BATCHNORM_ISA="sse9")
    assert code == 2
    assert (
        out
        == f"error: BATCHNORM_ISA=sse9 is not available here; choose from {', '.join(known)}, or unset it\n"
    )
