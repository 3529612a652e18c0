"""What `bn.env` finds."""

import dataclasses
import json
import platform

import pytest
import torch

import batchnorm as bn
from batchnorm import installation
from batchnorm._state import PROCESS


def test_it_names_versions_and_what_serves() -> None:
    found = bn.env()
    assert (found.batchnorm, found.torch, found.python) == (
        bn.__version__,
        torch.__version__,
        platform.python_version(),
    )
    assert found.threads == torch.get_num_threads()
    assert json.loads(json.dumps(found.to_dict()))["backend"] == found.backend
    if found.backend == "native":
        assert found.isa in found.isas
        assert found.library == "libbatchnorm_native.so"
        assert found.max_threads >= 1
        # Other tests of this process load a second one; tests/packaging counts in a process alone.
        assert any("torch" in runtime for runtime in found.openmp)
    with bn.backend("reference"):
        assert bn.env().backend == "reference"


def test_two_openmp_runtimes_are_warned_about(monkeypatch) -> None:
    monkeypatch.setattr(installation, "loaded_runtimes", lambda: ["/a/libgomp.so.1", "/b/libiomp5.so"])
    assert any("2 OpenMP runtimes" in warning for warning in bn.env().warnings)
    monkeypatch.setattr(installation, "loaded_runtimes", lambda: ["/a/libgomp.so.1"])
    assert bn.env().warnings == ()


def test_a_forked_process_is_warned_about(monkeypatch) -> None:
    monkeypatch.setattr(PROCESS, "forked", True)
    found = bn.env()
    assert found.threads == 1
    assert any("forked" in warning for warning in found.warnings)


def test_what_was_found_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        bn.env().isa = "avx3"
