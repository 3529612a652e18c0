"""Tensors for what the kernels write: all but small ones in memory that stays mapped, native/memory.cpp."""

import struct

import torch
from torch import Tensor

from batchnorm.ops.shared_library import TYPES, load, require

__all__ = ["POOLED_BYTES", "empty_like", "trim"]

# From here on fresh pages cost more than the microsecond that a tensor of the pool takes beyond one of malloc.
POOLED_BYTES = 256 * 2**10
# From here on glibc's malloc gives a block back to the system whenever it is freed.
_HUGE_BYTES = 32 * 2**20

# torch.utils.dlpack.from_dlpack without its questions, which take a quarter of a tensor where the caches hold values.
_from_dlpack = torch._C._from_dlpack

_PACK = [struct.Struct(f"@{2 * dims}q").pack for dims in range(9)]


def empty_like(x: Tensor) -> Tensor:
    """`torch.empty_like` of a tensor without gaps that the kernels serve."""
    size = x.nbytes
    if size < POOLED_BYTES:
        return torch.empty_like(x)
    library = require()
    shape = x.shape
    dims = len(shape)
    if library.keep_bytes == 0 or dims >= len(_PACK):
        return _from_torch(x, size)
    try:
        capsule = library.functions.bn_empty(_PACK[dims](*shape, *x.stride()), dims, TYPES[x.dtype], size)
    except MemoryError:  # torch's allocator may find some, or says so in its own words
        return torch.empty_like(x)
    return _from_dlpack(capsule)


def trim(keep_bytes: int = 0) -> int:
    """Give memory that no tensor uses back to the system, what was idle longest first.

    Args:
        keep_bytes: how much may stay idle, bytes.

    Returns:
        How much stays idle, bytes.

    Example:
        >>> from batchnorm.ops.memory import trim
        >>> trim()
        0
    """
    library = load()
    if isinstance(library, str):
        return 0
    idle: int = library.functions.bn_trim(keep_bytes)
    return idle


def _from_torch(x: Tensor, size: int) -> Tensor:
    output = torch.empty_like(x)
    if size >= _HUGE_BYTES:
        require().functions.bn_advise_huge_pages(output.data_ptr(), size)
    return output
