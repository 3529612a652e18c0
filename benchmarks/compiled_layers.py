"""What torch.compile costs around one layer, and around a chain: a call of a compiled graph is dear, a layer in it not.

Prints microseconds (least of the rounds, eager and compiled in turns): `python benchmarks/compiled_layers.py`.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import batchnorm as bn

SHAPES = ((256, 84, 1, 1), (16, 128, 28, 28))
DEPTHS = (1, 8)
ROUNDS = 20


class Chain(nn.Module):
    """Layers one behind the other, each with its activation."""

    def __init__(self, features: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(bn.BatchNorm2d(features) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, act="relu")
        return x


def measure(shape: tuple[int, ...], depth: int, training: bool) -> tuple[float, float]:
    """Seconds of a step, or of an evaluation without gradients: eager and compiled."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = Chain(shape[1], depth).train(training)
    x, grad = torch.randn(shape, requires_grad=training), torch.randn(shape)
    compiled = torch.compile(model, dynamic=False)

    def call(function: Callable[[Tensor], Tensor]) -> None:
        if not training:
            with torch.no_grad():
                function(x)
            return
        x.grad = None
        model.zero_grad()
        function(x).backward(grad)

    calls = max(2, min(100, int(1e6 / (x.numel() * depth))))
    best = [float("inf"), float("inf")]
    for _ in range(ROUNDS):
        for index, function in enumerate((model, compiled)):
            call(function)
            start = time.perf_counter()
            for _ in range(calls):
                call(function)
            best[index] = min(best[index], (time.perf_counter() - start) / calls)
    return best[0], best[1]


def main() -> None:
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for shape in SHAPES:
        for training in (True, False):
            for depth in DEPTHS:
                eager, compiled = measure(shape, depth, training)
                what = "training step" if training else "evaluation"
                print(
                    f"{shape!s:18} {what:13} {depth} layers: eager {eager * 1e6:7.0f}, compiled {compiled * 1e6:7.0f}, "
                    f"ratio {eager / compiled:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
