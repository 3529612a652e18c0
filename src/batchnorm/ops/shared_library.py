"""Finding and loading the kernels, or the reason why they are not there."""

import ctypes
import dataclasses
import functools
import importlib.resources
import os
import platform
import sys
from typing import Any

import torch

from batchnorm.errors import BackendError
from batchnorm.ops.openmp import watch_forks

__all__ = [
    "FILE_NAME",
    "TYPES",
    "SharedLibrary",
    "build_record",
    "load",
    "require",
    "why_unavailable",
]

FILE_NAME = "libbatchnorm_native.so"
_BUILD_RECORD = "native_build.txt"
_ABI = 2  # BN_ABI of native/batchnorm.h
TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_KEEP_BYTES = 2**30
_CALLS = (
    "bn_moments",
    "bn_normalize",
    "bn_grad_moments",
    "bn_grad_input",
    "bn_forward",
    "bn_evaluate",
    "bn_backward",
)


@dataclasses.dataclass(frozen=True)
class SharedLibrary:
    """The loaded kernels.

    Args:
        functions: by their names in native/batchnorm.h, typed.
        isas: instruction sets that this build has and this processor can run, best first.
        keep_bytes: how much memory of large outputs may stay mapped that no tensor uses, bytes; 0: none is ours.
    """

    functions: Any
    isas: tuple[str, ...]
    keep_bytes: int

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        name: bytes = self.functions.bn_isa()
        return name.decode()


def require() -> SharedLibrary:
    """The kernels.

    Raises:
        BackendError: (RuntimeError) they are not available; the message says why.
    """
    found = load()
    if isinstance(found, str):
        raise BackendError(f"the native backend is not available: {found}")
    return found


def why_unavailable() -> str | None:
    """The reason, or None where the kernels are loaded."""
    found = _open()
    return found if isinstance(found, str) else None


@functools.cache
def load() -> SharedLibrary | str:
    """The kernels, loaded at the first call, or why there are none.

    Raises:
        BackendError: (RuntimeError) BATCHNORM_ISA names what this build and processor do not have, BATCHNORM_KEEP_BYTES
            is no number of bytes, or BATCHNORM_REQUIRE_NATIVE=1 and there are none.
    """
    found = _open()
    if isinstance(found, str):
        if os.environ.get("BATCHNORM_REQUIRE_NATIVE", "0") not in ("", "0"):
            raise BackendError(
                f"BATCHNORM_REQUIRE_NATIVE is set, but the native backend is not available: {found}"
            )
        return found
    _choose_isa(found)
    return _keep(found)


def build_record() -> str | None:
    """What the build wrote about itself, where it did."""
    record = importlib.resources.files("batchnorm.ops").joinpath(_BUILD_RECORD)
    return record.read_text().strip() if record.is_file() else None


@functools.cache
def _open() -> SharedLibrary | str:
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return (
            f"{platform.system()} {' '.join(platform.libc_ver())}".strip()
            + " is not served yet, Linux with glibc is"
        )
    file = importlib.resources.files("batchnorm.ops").joinpath(FILE_NAME)
    if not file.is_file():
        return f"no library in this install: {_why_not_built()}"
    with importlib.resources.as_file(file) as path:
        functions = _dlopen(str(path))
    if isinstance(functions, str):
        return functions
    if functions.bn_abi() != _ABI:
        return f"the library has interface {functions.bn_abi()}, this package needs {_ABI}; install the package again"
    for name in _CALLS:
        function = getattr(functions, name)
        function.argtypes, function.restype = (ctypes.c_char_p,), ctypes.c_int
    functions.bn_isa.restype = functions.bn_isas.restype = ctypes.c_char_p
    functions.bn_use_isa.argtypes = (ctypes.c_char_p,)
    functions.bn_advise_huge_pages.argtypes = (ctypes.c_void_p, ctypes.c_int64)
    functions.bn_keep.argtypes = (ctypes.c_void_p, ctypes.c_int64)
    functions.bn_trim.argtypes = (ctypes.c_int64,)
    functions.bn_trim.restype = functions.bn_mapped_bytes.restype = ctypes.c_int64
    # It makes an object of Python's, so it keeps the lock that other calls let go.
    functions.bn_empty = ctypes.PYFUNCTYPE(
        ctypes.py_object, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int64
    )(("bn_empty", functions))
    functions.bn_math.argtypes = (
        ctypes.c_char_p,
        ctypes.c_int32,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
    )
    watch_forks()
    return SharedLibrary(functions, tuple(functions.bn_isas().decode().split(",")), keep_bytes=0)


def _why_not_built() -> str:
    """What CMakeLists.txt wrote when it gave up: a state and a reason."""
    lines = (build_record() or "").splitlines()
    said = [line.partition(": ")[2] for line in lines if line.startswith(("state: ", "reason: "))]
    return ": ".join(said) or "it was made without a C++ compiler, or the build of it failed"


def _dlopen(path: str) -> Any:
    """The library, whose OpenMP symbols resolve to the runtime that torch has loaded; or why that failed."""
    try:
        return ctypes.CDLL(path)
    except OSError as first:
        # This torch keeps its runtime to itself, or has another than GNU's: open the system's for everybody.
        try:
            ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
        except OSError:
            return (
                f"torch has loaded no OpenMP runtime that fits, and libgomp.so.1 is missing: {_said(first)}"
            )
        try:
            return ctypes.CDLL(path)
        except OSError as second:
            return f"the library does not load: {_said(second)}"


def _said(error: OSError) -> str:
    return str(error).rpartition("/")[2]


def _choose_isa(library: SharedLibrary) -> None:
    wanted = os.environ.get("BATCHNORM_ISA", "")
    if wanted and (wanted not in library.isas or library.functions.bn_use_isa(wanted.encode())):
        raise BackendError(
            f"BATCHNORM_ISA={wanted} is not available here; choose from {', '.join(library.isas)}, or unset it"
        )


def _keep(library: SharedLibrary) -> SharedLibrary:
    wanted = os.environ.get("BATCHNORM_KEEP_BYTES", "")
    try:
        keep_bytes = int(wanted) if wanted else _KEEP_BYTES
        if not 0 <= keep_bytes < 2**63:
            raise ValueError
    except ValueError:
        raise BackendError(
            f"BATCHNORM_KEEP_BYTES={wanted} is no number of bytes; give a whole number such as {_KEEP_BYTES}, "
            "0 to keep none, or unset it"
        ) from None
    names = ("PyCapsule_New", "PyCapsule_IsValid", "PyCapsule_GetPointer", "PyErr_NoMemory")  # bn_capsules
    capsules = [ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p) for name in names]
    library.functions.bn_keep((ctypes.c_void_p * len(names))(*capsules), keep_bytes)
    return dataclasses.replace(library, keep_bytes=keep_bytes)
