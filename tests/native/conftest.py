"""The kernels with each instruction set in turn."""

from collections.abc import Iterator

import pytest

from batchnorm.ops.shared_library import SharedLibrary, load

ISAS = ("avx512", "avx2", "baseline", "neon")


@pytest.fixture(params=ISAS)
def library(request: pytest.FixtureRequest) -> Iterator[SharedLibrary]:
    found = load()
    if isinstance(found, str):
        pytest.skip(f"no kernels: {found}")
    if request.param not in found.isas:
        pytest.skip(f"this build or this processor has no {request.param}")
    before = found.isa
    assert found.functions.bn_use_isa(request.param.encode()) == 0
    yield found
    assert found.functions.bn_use_isa(before.encode()) == 0
