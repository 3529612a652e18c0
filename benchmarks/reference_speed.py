"""Time of forward and backward of the plain-torch layers, as a ratio to torch's, in one process on one thread.

Run: python benchmarks/reference_speed.py
"""

import statistics
import time
from collections.abc import Callable

import torch

import batchnorm as bn

SHAPES = {
    "LeNet, batch 32": (32, 6, 14, 14),
    "ResNet stage 1, batch 16": (16, 64, 56, 56),
    "ResNet stage 4, batch 16": (16, 512, 7, 7),
}
ROUNDS = 15


def step(layer: torch.nn.Module, x: torch.Tensor, grad: torch.Tensor) -> Callable[[], None]:
    """Return one forward and backward."""

    def run() -> None:
        x.grad = None
        layer(x).backward(grad)

    return run


def seconds(run: Callable[[], None], repeats: int) -> float:
    """Time `repeats` calls."""
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def main() -> None:
    """Print one Markdown row a shape; rounds are interleaved and their median ratio is shown."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, float32, one thread, median of {ROUNDS} interleaved rounds\n")
    print("| shape | torch | batchnorm | batchnorm / torch |\n|---|---|---|---|")
    for name, shape in SHAPES.items():
        x, grad = torch.randn(shape, requires_grad=True), torch.randn(shape)
        runs = [step(layer(shape[1]), x, grad) for layer in (torch.nn.BatchNorm2d, bn.BatchNorm2d)]
        repeats = max(1, 2_000_000 // x.numel())
        times = [[seconds(run, repeats) for run in runs] for _ in range(ROUNDS)]
        theirs, ours = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(b / a for a, b in times)
        print(f"| {name} {shape} | {theirs * 1e3:.3g} ms | {ours * 1e3:.3g} ms | {ratio:.2g} |")


if __name__ == "__main__":
    main()
