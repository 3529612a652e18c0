"""The memory of large outputs: used again when nobody sees it any more, never before, and given back in the end."""

import copy
import gc
import io
import os
import pickle
import subprocess
import sys
import textwrap
import threading

import pytest
import torch

import batchnorm as bn
from batchnorm.ops import memory
from batchnorm.ops.shared_library import load

MIB = 2**20
SHAPES = [
    (4, 8, 16, 16),
    (4, 1, 3, 3),
    (4, 8, 1, 1),
    (1, 1, 1, 1),
    (1, 8, 2, 2),
    (3, 5),
    (2, 3, 4, 5, 6),
    (2,) * 9,
]


@pytest.fixture
def pool(native, monkeypatch):
    """The library, with nothing idle and every tensor from the pool however small; skipped where it is off."""
    library = load()
    if library.keep_bytes == 0:
        pytest.skip("BATCHNORM_KEEP_BYTES=0")
    monkeypatch.setattr(memory, "POOLED_BYTES", 1)
    gc.collect()
    memory.trim()
    yield library.functions
    memory.trim()


def idle(functions) -> int:
    return functions.bn_trim(2**62)


def floats(mib: float) -> torch.Tensor:
    return torch.empty(int(mib * MIB) // 4)


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", "import torch, batchnorm as bn\n" + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_tensor_is_what_empty_like_gives(pool, shape, dtype, layout) -> None:
    x = torch.randn(shape).to(dtype)
    if layout == "channels_last":
        if len(shape) not in (4, 5):
            pytest.skip("has no channels_last")
        x = x.contiguous(memory_format=torch.channels_last if len(shape) == 4 else torch.channels_last_3d)
    mine, torchs = memory.empty_like(x), torch.empty_like(x)
    for name in ("shape", "dtype", "device", "layout", "requires_grad"):
        assert getattr(mine, name) == getattr(torchs, name), name
    assert mine.stride() == torchs.stride()
    assert mine.untyped_storage().nbytes() == torchs.untyped_storage().nbytes()
    mine.copy_(x)
    assert torch.equal(mine, x)


def test_memory_is_used_again_when_its_tensor_is_gone(pool) -> None:
    x = floats(3)
    first = memory.empty_like(x)
    address, mapped = first.data_ptr(), pool.bn_mapped_bytes()
    assert address % (2 * MIB) == 0
    second = memory.empty_like(x)
    assert second.data_ptr() != address
    del first
    assert memory.empty_like(floats(2.5)).data_ptr() == address  # a quarter larger is near enough
    assert memory.empty_like(floats(1)).data_ptr() != address
    assert memory.empty_like(x).data_ptr() == address
    assert pool.bn_mapped_bytes() == mapped + x.nbytes + MIB


def test_the_smallest_that_fits_comes_first_and_of_equals_the_one_used_last(pool) -> None:
    tensors = [memory.empty_like(floats(mib)) for mib in (2, 2, 2, 2.25)]
    last = tensors[1].data_ptr()
    for index in (2, 0, 0, 0):  # at last the larger one
        del tensors[index]
    assert memory.empty_like(floats(2)).data_ptr() == last


ALIASES = {
    "view": lambda t: t[1:2],
    "detach": lambda t: t.detach(),
    "data": lambda t: t.data,
    "numpy": lambda t: t.numpy(),
    "storage": lambda t: t.untyped_storage(),
    "dlpack": lambda t: torch.from_dlpack(t),
    "saved": lambda t: (t.clone().requires_grad_() * t).grad_fn,
}


@pytest.mark.parametrize("alias", ALIASES)
def test_whatever_sees_the_memory_keeps_it(pool, alias) -> None:
    x = floats(2)
    tensor = memory.empty_like(x)
    address, kept = tensor.data_ptr(), ALIASES[alias](tensor)
    del tensor
    assert idle(pool) == 0
    assert memory.empty_like(x).data_ptr() != address
    del kept
    assert memory.empty_like(x).data_ptr() == address


def test_a_capsule_that_no_tensor_was_made_of_gives_its_memory_back_once(pool) -> None:
    shape = memory._PACK[1](2 * MIB // 4, 1)
    capsule = pool.bn_empty(shape, 1, 0, 2 * MIB)
    assert idle(pool) == 0
    del capsule
    assert idle(pool) == 2 * MIB
    capsule = pool.bn_empty(shape, 1, 0, 2 * MIB)
    tensor = torch.from_dlpack(capsule)
    del tensor
    assert idle(pool) == 2 * MIB
    del capsule  # its tensor has given the memory back already
    assert idle(pool) == 2 * MIB
    assert pool.bn_mapped_bytes() >= 2 * MIB


def test_what_is_too_much_to_keep_is_unmapped_oldest_first(pool) -> None:
    tensors = [memory.empty_like(floats(2)) for _ in range(3)]
    addresses = [tensor.data_ptr() for tensor in tensors]
    mapped = pool.bn_mapped_bytes()
    while tensors:
        del tensors[0]
    assert memory.trim(4 * MIB) == 4 * MIB
    assert pool.bn_mapped_bytes() == mapped - 2 * MIB
    again = [memory.empty_like(floats(2)) for _ in range(2)]
    assert [tensor.data_ptr() for tensor in again] == addresses[:0:-1]
    assert memory.trim() == 0


def test_memory_that_nothing_fits_is_given_back_after_a_while(pool) -> None:
    large, small = floats(64), floats(1)
    del large
    tensor = memory.empty_like(floats(8))
    del tensor
    for _ in range(1024):
        memory.empty_like(small)
    assert idle(pool) == 9 * MIB
    memory.empty_like(small)
    assert idle(pool) == MIB


def test_the_limit_of_the_environment_holds(pool) -> None:
    done = python(
        """
        from batchnorm.ops import memory
        from batchnorm.ops.shared_library import load
        memory.POOLED_BYTES = 1
        tensors = [memory.empty_like(torch.empty(2**19)) for _ in range(5)]
        del tensors
        print(load().functions.bn_trim(2**62), bn.env().keep_bytes)
        """,
        BATCHNORM_KEEP_BYTES=str(5 * MIB),
    )
    assert done.stdout.split() == [str(4 * MIB), str(5 * MIB)], done.stderr


def test_zero_leaves_everything_to_torch(native) -> None:
    done = python(
        """
        from batchnorm.ops import memory
        from batchnorm.ops.shared_library import load
        x = torch.randn(1, 4, 1024, 4096)
        y = bn.BatchNorm2d(4)(x)
        print(y.untyped_storage().resizable(), load().functions.bn_mapped_bytes(), bn.env().keep_bytes, memory.trim())
        """,
        BATCHNORM_KEEP_BYTES="0",
    )
    assert done.stdout.split() == ["True", "0", "0", "0"], done.stderr


@pytest.mark.parametrize("value", ["512M", "-1", "1e9", str(2**63)])
def test_what_is_no_number_of_bytes_is_refused(native, value) -> None:
    done = python("bn.BatchNorm2d(4)(torch.randn(2, 4, 3, 3))", BATCHNORM_KEEP_BYTES=value)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("batchnorm.errors.BackendError: BATCHNORM_KEEP_BYTES=" + value), done.stderr
    assert "0 to keep none" in last


def test_several_threads_never_share_memory(pool) -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        like = torch.empty(1000 * (1 + number % 3), dtype=torch.float64)
        for step in range(400):
            first, second = memory.empty_like(like), memory.empty_like(like)
            first.fill_(number)
            second.fill_(step)
            memory.trim(step % 5 * 2**16)  # without Python's lock
            if not ((first == number).all() and (second == step).all()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert idle(pool) == pool.bn_mapped_bytes()


def test_a_forked_child_goes_on_and_the_parents_tensors_stay(native) -> None:
    done = python(
        """
        import os, threading
        from batchnorm.ops import memory
        memory.POOLED_BYTES = 1
        x = torch.zeros(2**19)
        ours = memory.empty_like(x).fill_(1)
        stop = False
        def churn():  # the child is forked while another thread is at the pool
            while not stop:
                memory.trim()  # without Python's lock
        threads = [threading.Thread(target=churn) for _ in range(2)]
        [thread.start() for thread in threads]
        codes = []
        for _ in range(20):
            child = os.fork()
            if child == 0:
                good = bool((ours == 1).all())
                ours.fill_(2)
                for _ in range(5):
                    tensors = [memory.empty_like(x).fill_(3) for _ in range(3)]
                    good &= all(bool((t == 3).all()) for t in tensors)
                del ours, tensors
                memory.trim()
                os._exit(0 if good else 1)
            codes.append(os.waitpid(child, 0)[1])
        stop = True
        [thread.join() for thread in threads]
        print(sum(codes), bool((ours == 1).all()))
        """
    )
    assert done.stdout.split() == ["0", "True"], done.stderr


def test_memory_does_not_grow_while_shapes_change(pool) -> None:
    layer, seen = bn.BatchNorm2d(8), []
    for step in range(2000):
        x = torch.randn(1 + step % 7, 8, 8 + step % 5, 40 + step % 11).requires_grad_()
        layer(x, act="relu").sum().backward()
        seen.append(pool.bn_mapped_bytes())
    assert max(seen[1000:]) <= max(seen[:1000])
    del x
    assert memory.trim() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_layers_give_the_same_bits_from_the_pool_as_without(pool, monkeypatch, dtype, form) -> None:
    x, residual, weights = (
        torch.randn(4, 6, 9, 7).to(dtype).contiguous(memory_format=form) for _ in range(3)
    )

    def step() -> list[torch.Tensor]:
        layer = bn.BatchNorm2d(6, dtype=dtype)
        leaves = [t.clone().requires_grad_() for t in (x, residual)]
        y = layer(leaves[0], leaves[1], act="silu")
        kept = y.detach()
        (y * weights).sum().backward()
        assert y.untyped_storage().resizable() is (memory.POOLED_BYTES > 1)
        return [kept, *(leaf.grad for leaf in leaves), layer.weight.grad, layer.eval()(x).detach()]

    pooled = step()
    monkeypatch.setattr(memory, "POOLED_BYTES", 2**62)
    for mine, truth in zip(pooled, step(), strict=True):
        assert torch.equal(mine, truth)
        assert mine.stride() == truth.stride()


def test_an_output_can_be_changed_in_place_and_a_gradient_accumulates(pool) -> None:
    x = torch.randn(4, 6, 5, 5).requires_grad_()
    layer, weights = bn.BatchNorm2d(6), torch.randn(4, 6, 5, 5)
    (layer(x).relu_() * weights).sum().backward()
    once = x.grad.clone()
    (layer(x).relu_() * weights).sum().backward()
    torch.testing.assert_close(x.grad, 2 * once)
    with torch.inference_mode():
        assert layer(x).is_inference()


def test_compiled_operators_may_return_such_outputs(pool) -> None:
    from batchnorm.ops.library import NAMESPACE  # its import registers the operators

    x = torch.randn(4, 6, 5, 5).requires_grad_()
    arguments = (x, None, None, None, None, "relu", 0.0, 1e-5, 1)
    torch.library.opcheck(getattr(torch.ops, NAMESPACE).forward.default, arguments)


def stored(tensor: torch.Tensor) -> torch.Tensor:
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    return torch.load(file)


WAYS = {
    "share_memory_": lambda t: t.share_memory_(),
    "out": lambda t: torch.add(t, 0, out=t.resize_(0).resize_(100)),
    "deepcopy": copy.deepcopy,
    "pickle": lambda t: pickle.loads(pickle.dumps(t)),
    "save": stored,
    "numpy": lambda t: torch.from_numpy(t.numpy()),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_people_do_with_storages_works(pool, way) -> None:
    x = torch.randn(100)
    assert torch.equal(WAYS[way](memory.empty_like(x).copy_(x)), x)


def test_a_storage_cannot_grow_and_torch_says_so(pool) -> None:
    tensor = memory.empty_like(torch.empty(100))
    with pytest.raises(RuntimeError, match="not resizable"):
        tensor.resize_(10**6)
    with pytest.raises(RuntimeError, match="not resizable"):
        tensor.untyped_storage().resize_(0)


def test_a_tensor_goes_through_a_queue_to_another_process(native, tmp_path) -> None:
    script = tmp_path / "sending.py"
    script.write_text(
        textwrap.dedent(
            """
            import torch, torch.multiprocessing as mp
            from batchnorm.ops import memory

            def send(queue, got):
                memory.POOLED_BYTES = 1
                queue.put(memory.empty_like(torch.empty(10**6)).fill_(7))
                got.wait()

            if __name__ == "__main__":
                context = mp.get_context("fork")
                queue, got = context.Queue(), context.Event()
                child = context.Process(target=send, args=(queue, got))
                child.start()
                print(bool((queue.get(timeout=60) == 7).all()))
                got.set()
                child.join()
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "True", done.stderr


def test_a_process_ends_cleanly_with_living_tensors(native) -> None:
    done = python(
        """
        import atexit, sys
        from batchnorm.ops import memory
        memory.POOLED_BYTES = 1
        x = torch.zeros(2**19)
        kept = [memory.empty_like(x) for _ in range(3)]
        sys.kept = kept  # lives as long as the interpreter
        atexit.register(lambda: kept.append(memory.empty_like(x)))
        print(len(kept))
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout == "3\n"


def test_where_the_system_has_no_memory_torch_says_so(pool) -> None:
    mapped = pool.bn_mapped_bytes()
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        memory.empty_like(torch.empty(1).expand(2**50))
    assert pool.bn_mapped_bytes() == mapped
