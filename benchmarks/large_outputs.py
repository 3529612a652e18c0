"""What fresh memory costs a 51 MB output, and which allocator settings help: copies, and BN + ReLU.

Run: python benchmarks/large_outputs.py
"""

import json
import os
import subprocess
import sys

import torch

import batchnorm as bn
from batchnorm.bench.copying import advised_copy
from batchnorm.bench.digest import machine_words
from batchnorm.bench.harness import Effort, interleaved, medians
from batchnorm.bench.machine import environment
from batchnorm.ops.shared_library import why_unavailable
from batchnorm.records.wording import duration

SHAPE = (16, 64, 112, 112)
# Read by glibc when a process starts: mallopt(3), and "Memory Allocation Tunables" in the manual of glibc.
SETTINGS = {
    "as it is": {},
    "no pool for our outputs": {"BATCHNORM_KEEP_BYTES": "0"},
    "huge pages asked for by malloc": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    # malloc takes at most 32 MiB as this threshold, and gives larger blocks back to the system every time.
    "mmap threshold at its highest": {
        "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
        "MALLOC_TRIM_THRESHOLD_": str(2**40),
    },
    "no mmap, no trimming": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)},
}


def measure() -> dict[str, float]:
    """Median seconds of each copy and pass in this process."""
    x = torch.randn(SHAPE)
    warm, leaf, grad = torch.empty_like(x), x.clone().requires_grad_(), torch.randn(SHAPE)
    theirs, ours = torch.nn.BatchNorm2d(SHAPE[1]), bn.BatchNorm2d(SHAPE[1])

    def with_torch() -> None:
        leaf.grad = None
        torch.relu_(theirs(leaf)).backward(grad)

    def with_ours() -> None:
        leaf.grad = None
        ours(leaf, act="relu").backward(grad)

    calls = {"clone": x.clone, "copy into warm memory": lambda: warm.copy_(x)}
    if why_unavailable() is None:
        calls["copy with huge-page advice"] = advised_copy(x)
    calls |= {"torch BN + ReLU": with_torch, "batchnorm BN + ReLU": with_ours}
    return medians(interleaved(calls, Effort(least=9, most=9)))


def main() -> None:
    """Measure every setting in a process of its own and print one Markdown row for each."""
    if sys.argv[1:] == ["--here"]:
        print(json.dumps(measure()))
        return
    found = {}
    for name, variables in SETTINGS.items():
        done = subprocess.run(
            [sys.executable, __file__, "--here"],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=True,
        )
        found[name] = json.loads(done.stdout)
    size = torch.Size(SHAPE).numel() * 4 / 1e6
    print(
        f"{machine_words(environment())}\n\n{SHAPE} float32, {size:.1f} MB; BN + ReLU is forward and backward.\n"
    )
    columns = list(found["as it is"])
    print(f"| allocator | settings | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}")
    for name, times in found.items():
        words = " ".join(f"`{key}={value}`" for key, value in SETTINGS[name].items()) or "none"
        print(f"| {name} | {words} | {' | '.join(duration(times[column]) for column in columns)} |")


if __name__ == "__main__":
    main()
