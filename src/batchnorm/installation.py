"""What is installed and in use here: the answer to "why is it slow" and the first thing to put into a bug report."""

import dataclasses
import os
import platform
from pathlib import Path
from typing import Any

import torch

import batchnorm
from batchnorm._state import CHOICE, PROCESS
from batchnorm.ops import shared_library
from batchnorm.ops.openmp import loaded_runtimes, thread_count

__all__ = ["Environment", "env", "processor"]


@dataclasses.dataclass(frozen=True)
class Environment:
    """What `env` found; strings are for people, None is what the system does not tell.

    Args:
        batchnorm: version.
        torch: version.
        python: version.
        backend: what tensors on the CPU get in this thread, "native" or "reference".
        why: the reason for that.
        library: file name of the kernels, None where there are none.
        isa: instruction set in use.
        isas: those that this build has and this processor can run, best first.
        build: what the build of the kernels wrote about itself.
        openmp: paths of the OpenMP runtimes in this process.
        threads: what a kernel asks for, `torch.get_num_threads()`, and 1 in a forked child.
        max_threads: what the OpenMP runtime would give.
        keep_bytes: how much memory of large outputs may stay mapped that no tensor uses, bytes; 0: none is ours.
        cpu: the processor.
        huge_pages: the kernel's setting for transparent huge pages.
        warnings: what is wrong with the above, in sentences.
    """

    batchnorm: str
    torch: str
    python: str
    backend: str
    why: str
    library: str | None
    isa: str | None
    isas: tuple[str, ...]
    build: str | None
    openmp: tuple[str, ...]
    threads: int
    max_threads: int | None
    keep_bytes: int | None
    cpu: str
    huge_pages: str | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, as JSON takes them."""
        return dataclasses.asdict(self)


def env() -> Environment:
    """Say what is installed, which backend serves tensors on the CPU, and why.

    Returns:
        The findings; nothing is changed, except that the kernels are loaded if they were not yet.

    Raises:
        BackendError: (RuntimeError) BATCHNORM_ISA names what is not available, BATCHNORM_KEEP_BYTES is no number of
            bytes, or BATCHNORM_REQUIRE_NATIVE=1 and there are no kernels.

    Example:
        >>> import batchnorm as bn
        >>> bn.env().backend in ("native", "reference")
        True
    """
    found = shared_library.load()
    library = None if isinstance(found, str) else found
    backend, why = _serving(found)
    runtimes = tuple(loaded_runtimes())
    return Environment(
        batchnorm=batchnorm.__version__,
        torch=torch.__version__,
        python=platform.python_version(),
        backend=backend,
        why=why,
        library=None if library is None else shared_library.FILE_NAME,
        isa=None if library is None else library.isa,
        isas=() if library is None else library.isas,
        build=shared_library.build_record(),
        openmp=runtimes,
        threads=thread_count(),
        max_threads=None if library is None else library.functions.bn_max_threads(),
        keep_bytes=None if library is None else library.keep_bytes,
        cpu=processor(),
        huge_pages=_huge_pages(),
        warnings=tuple(_warnings(runtimes)),
    )


def _serving(found: shared_library.SharedLibrary | str) -> tuple[str, str]:
    if isinstance(found, str):
        return "reference", found
    if CHOICE.backend == "reference":
        return "reference", "asked for with batchnorm.backend"
    chosen = os.environ.get("BATCHNORM_ISA")
    return (
        "native",
        f"BATCHNORM_ISA={chosen}" if chosen else "the kernels are here, and this processor runs them",
    )


def _warnings(runtimes: tuple[str, ...]) -> list[str]:
    said = []
    if len(runtimes) > 1:
        said.append(
            f"{len(runtimes)} OpenMP runtimes are loaded, each with a pool of threads: they compete for the cores"
        )
    if PROCESS.forked:
        said.append("this process was forked, where OpenMP cannot be used: kernels run on one thread")
    return said


def processor() -> str:
    """The processor's own name for itself, where the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def _huge_pages() -> str | None:
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return None
    return text.partition("[")[2].partition("]")[0] or None
