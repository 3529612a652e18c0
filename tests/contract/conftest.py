"""Every contract test runs on every backend of this machine's CPU."""

import os

import pytest

import batchnorm as bn
from batchnorm.errors import BackendError


@pytest.fixture(params=["reference", "native"], autouse=False)
def on(request):
    """The backend a test runs on; a native one that is missing is skipped, or fails where it is required."""
    try:
        with bn.backend(request.param):
            yield request.param
    except BackendError as error:
        if os.environ.get("BATCHNORM_REQUIRE_NATIVE", "0") == "1":
            raise
        pytest.skip(str(error))
