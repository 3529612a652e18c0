"""Threads and processes: one pool, the caller's number of threads, forks, workers, and several trainings at once."""

import json
import os
import subprocess
import sys
import textwrap
import threading

import pytest
import torch

import batchnorm as bn
from batchnorm.ops import openmp

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def python(code: str, **environment: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "2", **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


STEP = """
    import json, os, torch, batchnorm as bn
    from batchnorm.ops import openmp

    def step(seed=0, shape=(16, 32, 28, 28)):
        layer = bn.BatchNorm2d(shape[1])
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        y = layer(x, act="silu")
        y.square().sum().backward()
        return [y.detach(), x.grad, layer.weight.grad, layer.running_var.clone()]

    def tasks():
        return len(os.listdir("/proc/self/task"))
"""


@linux
def test_no_second_pool_appears(native) -> None:
    found = python(
        STEP
        + """
    x = torch.randn(1000, 1000)
    y = (x @ x, torch.nn.functional.batch_norm(torch.randn(16, 32, 28, 28), None, None, training=True))
    before = tasks(), openmp.loaded_runtimes()
    with bn.backend("native"):
        step()
    after = tasks(), openmp.loaded_runtimes()
    print(json.dumps({"before": before, "after": after, "threads": torch.get_num_threads()}))
    """
    )
    assert found["threads"] == 2
    assert found["before"][1] == found["after"][1]
    assert len(found["after"][1]) == 1
    # Autograd's own threads aside, which torch starts at its first backward for devices only.
    assert found["after"][0] == found["before"][0]


@linux
def test_the_number_of_threads_is_the_callers(native) -> None:
    found = python(
        STEP
        + """
    bn.env()
    torch.set_num_threads(1)
    counts = [openmp.thread_count(), tasks()]
    step()
    counts.append(tasks())
    torch.set_num_threads(3)
    counts.append(openmp.thread_count())
    step()
    counts.append(tasks())
    print(json.dumps(counts))
    """
    )
    one, before, alone, three, together = found
    assert (one, three) == (1, 3)
    assert alone == before
    assert together == before + 2


@linux
@pytest.mark.parametrize("loaded", ["parent", "child"])
def test_a_forked_child_works_on_one_thread(native, loaded) -> None:
    code = STEP if loaded == "parent" else STEP.replace("torch, batchnorm as bn", "torch")
    code = code.replace("from batchnorm.ops import openmp", "") if loaded == "child" else code
    first = "step()" if loaded == "parent" else "torch.randn(2000, 2000).exp().sum()"
    late = "" if loaded == "parent" else "import batchnorm as bn; globals()['bn'] = bn"
    found = python(
        code
        + f"""
    {first}
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        {late}
        from batchnorm.ops.openmp import thread_count
        # 2^15 values: two threads' work to the kernels, one's to torch's own operators, which hang in such a child.
        small = [float(t.double().sum()) for t in step(shape=(8, 16, 16, 16))]
        os.write(writer, json.dumps([thread_count(), bn.env().backend, small]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    print(os.read(reader, 10000).decode())
    """
    )
    assert found[:2] == [1, "native"]


@linux
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_data_loader_workers(native, start, tmp_path) -> None:
    script = tmp_path / "loading.py"
    script.write_text(
        textwrap.dedent(
            """
            import json, sys, torch, batchnorm as bn

            class Normalized(torch.utils.data.Dataset):
                def __len__(self):
                    return 4
                def __getitem__(self, index):
                    x = torch.randn(8, 16, 28, 28, generator=torch.Generator().manual_seed(index))
                    return bn.functional.batch_norm(x, None, None, training=True, act="relu")

            if __name__ == "__main__":
                data = Normalized()
                here = torch.stack([data[i] for i in range(4)])
                loader = torch.utils.data.DataLoader(
                    data, batch_size=4, num_workers=2, multiprocessing_context=sys.argv[1]
                )
                (there,) = loader
                print(json.dumps(float((here - there).abs().max())))
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script), start], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) <= 1e-6


def test_several_trainings_at_once_give_the_bits_of_each_alone(native) -> None:
    def train(seed: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        layer = bn.BatchNorm2d(8 + seed)
        outputs = []
        for _ in range(20):
            x = torch.randn((8, 8 + seed, 16, 16), generator=generator).requires_grad_()
            layer(x, act="gelu").square().sum().backward()
            outputs.append(x.grad)
        return [*outputs, *(p.grad for p in layer.parameters()), *layer.buffers()]

    alone = [train(seed) for seed in range(4)]
    together: dict[int, list[torch.Tensor]] = {}

    def work(seed: int) -> None:
        together[seed] = train(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        for mine, truth in zip(together[seed], alone[seed], strict=True):
            assert torch.equal(mine, truth)


def test_the_choice_of_a_backend_is_this_threads_own() -> None:
    from batchnorm._state import CHOICE

    seen = []
    with bn.backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(CHOICE.backend))
        thread.start()
        thread.join()
        assert CHOICE.backend == "reference"
    assert seen == ["auto"]
    assert CHOICE.backend == "auto"


@linux
def test_a_process_that_was_not_forked_says_so() -> None:
    assert not openmp._is_forked_child()
