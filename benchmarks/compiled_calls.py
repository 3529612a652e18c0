"""What torch.compile adds around a call: our layer eager and compiled, its operator alone, and a compiled addition.

Prints microseconds in evaluation on one thread, medians of calls in turns: `python benchmarks/compiled_calls.py`. After
a call with large tensors the caches hold those instead of Python's code, so the same steps of Python take longer.
"""

import statistics
import time
from collections.abc import Callable

import torch

import batchnorm as bn
from batchnorm.ops import library

SHAPES = ((256, 84), (64, 6, 28, 28), (16, 240, 28, 28))
ROUNDS = 300


def calls(shape: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    """What is timed for one shape."""
    layer = getattr(bn, "BatchNorm1d" if len(shape) == 2 else "BatchNorm2d")(shape[1]).eval()
    x, four = torch.randn(shape), torch.randn(4)
    operator = getattr(torch.ops, library.NAMESPACE)._evaluate.default
    given = (x, layer.running_mean, layer.running_var, layer.weight.detach(), layer.bias.detach())
    compiled, addition = torch.compile(layer), torch.compile(lambda values: values + 1)
    return {
        "eager": lambda: layer(x),
        "operator": lambda: operator(*given, None, None, "", 0.0, layer.eps, 1),
        "compiled": lambda: compiled(x),
        "compiled x + 1, four values": lambda: addition(four),
    }


def measure(functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds a call."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    with torch.no_grad():
        for _ in range(10):
            for function in functions.values():
                function()
        for _ in range(ROUNDS):
            for name, function in functions.items():
                start = time.perf_counter()
                function()
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}


def main() -> None:
    """Print a table of microseconds."""
    torch.set_num_threads(1)
    for number, shape in enumerate(SHAPES):
        found = measure(calls(shape))
        if number == 0:
            print(f"| | {' | '.join(found)} |\n|---|{'---:|' * len(found)}")
        print(f"| {shape} | {' | '.join(f'{value * 1e6:.1f}' for value in found.values())} |", flush=True)


if __name__ == "__main__":
    main()
