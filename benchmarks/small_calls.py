"""Where the time of a small call goes: torch's layer, ours, our kernels alone, and what autograd takes around nothing.

Prints microseconds on one thread, the least of the rounds, all of them in turns: `python benchmarks/small_calls.py`, or
`python benchmarks/small_calls.py 16,1280,7,7 16,512,14,14` for other shapes.
"""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import batchnorm as bn
from batchnorm.ops import direct, saved
from batchnorm.ops.shared_library import require

SHAPES = ((64, 84), (256, 84), (64, 16, 8, 8))
ROUNDS, CALLS = 15, 300


class Nothing(torch.autograd.Function):
    """What our layers hand to autograd, around outputs that are there already."""

    outputs: tuple[Tensor, ...] = ()

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *_: Tensor) -> Tensor:
        """A view, so that each call has a node of its own."""
        ctx.save_for_backward(x, weight)
        return Nothing.outputs[0].view_as(x)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:
        """The same three tensors each time."""
        _x, _weight = ctx.saved_tensors
        return Nothing.outputs


def step(
    function: Callable[..., Tensor], x: Tensor, grad: Tensor, parameters: list[nn.Parameter]
) -> Callable[[], None]:
    """A forward and a backward with all gradients set to None."""

    def call() -> None:
        for leaf in (x, *parameters):
            leaf.grad = None
        function(x).backward(grad)

    return call


def kernels(layer: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Callable[[], object]]:
    """The C functions alone, on the arguments that the layer's calls gave them."""
    packed, pack, kept, blank = [], direct._pack, [layer, x, grad], saved.blank
    direct._pack = lambda *fields: packed.append(pack(*fields)) or packed[-1]
    saved.blank = lambda *sizes: kept.append(blank(*sizes)) or kept[-1]  # addresses are in what is packed
    output = layer.train()(x)
    kept += [output.detach(), *torch.autograd.grad(output, [x, *layer.parameters()], grad, retain_graph=True)]
    with torch.no_grad():
        kept.append(layer.eval()(x))
    direct._pack, saved.blank = pack, blank
    library = require().functions
    forward, backward, evaluate = packed
    return {
        "training": lambda: (library.bn_forward(forward), library.bn_backward(backward), output, kept),
        "evaluation": lambda: (library.bn_evaluate(evaluate), kept),
    }


def calls(shape: tuple[int, ...]) -> dict[str, dict[str, Callable[[], object]]]:
    """What is timed for one shape, by what it is part of."""
    torch.manual_seed(0)
    x, grad, features = torch.randn(shape, requires_grad=True), torch.randn(shape), shape[1]
    kind = "BatchNorm1d" if len(shape) == 2 else "BatchNorm2d"
    theirs, ours = getattr(nn, kind)(features), getattr(bn, kind)(features)
    Nothing.outputs = (torch.randn(shape), torch.randn(features), torch.randn(features))
    alone = kernels(getattr(bn, kind)(features), x, grad)
    around = step(lambda x: Nothing.apply(x, ours.weight, ours.bias), x, grad, list(ours.parameters()))
    evaluated = [getattr(package, kind)(features).eval() for package in (nn, bn)]
    quiet = x.detach()
    return {
        "training": {
            "torch": step(theirs, x, grad, list(theirs.parameters())),
            "ours": step(ours, x, grad, list(ours.parameters())),
            "our kernels": alone["training"],
            "an empty Function": around,
        },
        "evaluation": {
            "torch": lambda: evaluated[0](quiet),
            "ours": lambda: evaluated[1](quiet),
            "our kernels": alone["evaluation"],
        },
    }


def measure(functions: Mapping[str, Callable[[], object]], grad: bool) -> dict[str, float]:
    """Seconds a call."""
    best = dict.fromkeys(functions, float("inf"))
    with torch.set_grad_enabled(grad):
        for _ in range(ROUNDS):
            for name, function in functions.items():
                function()
                start = time.perf_counter()
                for _ in range(CALLS):
                    function()
                best[name] = min(best[name], (time.perf_counter() - start) / CALLS)
    return best


def main() -> None:
    """Print a table of microseconds."""
    torch.set_num_threads(1)
    print(
        "| | torch | ours | our kernels | an empty Function | torch / ours |\n|---|---:|---:|---:|---:|---:|"
    )
    given = [tuple(int(size) for size in text.split(",")) for text in sys.argv[1:]]
    for shape in given or SHAPES:
        for part, functions in calls(shape).items():
            found = measure(functions, part == "training")
            columns = ("torch", "ours", "our kernels", "an empty Function")
            cells = [f"{found[name] * 1e6:.1f}" if name in found else "" for name in columns]
            ratio = found["torch"] / found["ours"]
            print(f"| {shape}, {part} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
