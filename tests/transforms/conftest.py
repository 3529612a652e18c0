"""The native backend, as the operators' tests have it."""

from tests.ops.conftest import native

__all__ = ["native"]
