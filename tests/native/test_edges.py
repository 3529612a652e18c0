"""What the kernels must not read, and calls at the edge of what the header allows."""

import math
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from batchnorm.moments import RunningStats
from batchnorm.ops import Affine, reference
from batchnorm.ops.native import CALL
from batchnorm.ops.shared_library import SharedLibrary

HEADER = Path(__file__).parents[2] / "native" / "batchnorm.h"


def call(library: SharedLibrary, name: str, **given: int) -> int:
    body = re.search(r"typedef struct bn_call \{(.*?)\} bn_call;", HEADER.read_text(), re.S)[1]
    fields = re.findall(r"(\w+)[,;]", re.sub(r"/\*.*?\*/", "", body, flags=re.S))
    assert given.keys() <= set(fields)
    status: int = getattr(library.functions, name)(CALL.pack(*(given.get(field, 0) for field in fields)))
    return status


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="guards a page with mprotect")
@pytest.mark.parametrize("name", ["backward", "grad_moments"])
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5)])
def test_gradients_in_evaluation_read_two_rows_only(library, name, shape) -> None:
    # A million channels crashed: the count was read where only rows from a batch have one.
    code = """
    import ctypes, mmap, os, sys, torch
    from batchnorm.ops import Affine, native

    pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    assert protect(address + mmap.PAGESIZE, mmap.PAGESIZE, 0) == 0
    rows = torch.frombuffer(pages, dtype=torch.float64, count=8, offset=mmap.PAGESIZE - 64).view(2, 4).fill_(1)
    x = torch.ones(SHAPE)
    if NAME == "backward":
        native.backward(x, x, rows, Affine(), 1, [True] * 3 + [False], torch.float32)
    else:
        native._wide = lambda *_: rows
        native.grad_moments(x, x, rows[0], rows[1], Affine(), 1)
    os._exit(0)  # not through the guarded page
    """
    code = textwrap.dedent(code).replace("SHAPE", repr(shape)).replace("NAME", repr(name))
    environment = {**os.environ, "BATCHNORM_ISA": library.isa, "BATCHNORM_REQUIRE_NATIVE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(6, 2), (3, 2, 40), (4, 2, 2000)])
def test_an_infinite_invstd_leaves_the_signs(library, dtype, shape) -> None:
    from batchnorm.ops import native

    x = torch.ones(shape, dtype=dtype)
    x[0], x[1] = 5, -5
    mean, var, bias = torch.ones(2, dtype=dtype), torch.zeros(2, dtype=dtype), torch.ones(2, dtype=dtype)
    assert native.moves(RunningStats(mean, var))
    expected, _ = reference.evaluate(x, mean, var, Affine(bias=bias), 0.0, 1)
    actual, _ = native.evaluate(x, mean, var, Affine(bias=bias), 0.0, 1)
    assert expected.flatten()[0] == math.inf
    torch.testing.assert_close(actual, expected, equal_nan=True)


@pytest.mark.parametrize("inner", [1, 3])
def test_no_channels_are_nothing_to_do(library, inner) -> None:
    here = torch.zeros(8).data_ptr()
    for name in ("moments", "normalize", "forward", "grad_moments", "grad_input", "backward"):
        assert call(library, f"bn_{name}", outer=4, inner=inner, x=here, grad_output=here, output=here) == 0


@pytest.mark.parametrize("field", ["value_type", "parameter_type", "running_type", "act"])
def test_unknown_codes_are_refused(library, field) -> None:
    room = torch.zeros(20, dtype=torch.float64)
    tensors = ("x", "grad_output", "output", "mean", "var", "invstd", "count")
    pointers = dict.fromkeys(tensors, room.data_ptr())
    for name in ("bn_forward", "bn_backward"):
        assert call(library, name, outer=2, channels=1, inner=1, **pointers) == 0
        assert call(library, name, outer=2, channels=1, inner=1, **pointers, **{field: 11}) == -1
        assert call(library, name, outer=2, channels=1, inner=1, **pointers, **{field: -1}) == -1


def test_a_gradient_without_memory_is_refused(library) -> None:
    room = torch.zeros(20, dtype=torch.float64)
    pointers = dict.fromkeys(("x", "output", "mean", "invstd"), room.data_ptr())
    assert call(library, "bn_backward", outer=2, channels=1, inner=1, **pointers) == -1
    assert call(library, "bn_grad_input", outer=2, channels=1, inner=1, **pointers) == -1
    assert call(library, "bn_forward", outer=2, channels=1, inner=1, mean=room.data_ptr()) == -1
