"""What the tests of the native backend need."""

import os

import pytest

from batchnorm.ops.shared_library import why_unavailable


@pytest.fixture
def native():
    """The module of the native backend; skipped where there are no kernels, failed where they are required."""
    reason = why_unavailable()
    if reason is not None:
        if os.environ.get("BATCHNORM_REQUIRE_NATIVE", "0") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from batchnorm.ops import native as module

    return module
