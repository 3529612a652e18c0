"""Files written whole or not at all."""

import os
import tempfile
from pathlib import Path

from batchnorm.errors import StoreError

__all__ = ["write_whole"]


def write_whole(path: Path, text: bytes) -> Path:
    """Write a file so that a reader sees the old one or the new one, also when the machine stops midway.

    Raises:
        StoreError: it cannot be written; the message says why.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise StoreError(f"cannot write '{path}': {error.strerror or error}") from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return path
