"""One HTML file from stored records: pure functions, no torch, the same bytes every time."""

from batchnorm.errors import MissingExtraError

try:
    from batchnorm.report.page import render, write
except ImportError as error:
    raise MissingExtraError(
        f"the report needs {error.name or error}, which is not installed: pip install 'batchnorm[lab]'"
    ) from None

__all__ = ["render", "write"]
