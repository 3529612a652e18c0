"""What ghost batch norm and batch renormalization cost: a training step against plain batch norm, and torch's loop.

Forward and backward of one layer, float32, 32 samples a virtual batch, the median of many rounds that take turns.

Run: python benchmarks/small_batches.py
"""

import argparse
import statistics
import time

import torch

import batchnorm as bn

SIZE = 32
SHAPES = (
    ("contiguous", (1024, 84)),
    ("contiguous", (128, 256, 14, 14)),
    ("contiguous", (256, 64, 28, 28)),
    ("contiguous", (250, 64, 28, 28)),
    ("channels_last", (128, 256, 14, 14)),
)


class Loop(torch.nn.Module):
    """torch's layer over one virtual batch after the other."""

    def __init__(self, channels, rank):
        super().__init__()
        self.norm = (torch.nn.BatchNorm1d if rank == 2 else torch.nn.BatchNorm2d)(channels)

    def forward(self, x):
        """Normalize each chunk, and join them."""
        return torch.cat([self.norm(part) for part in x.split(SIZE)])


def layers(channels, rank):
    """The layers that are compared, by column."""
    one = rank == 2
    return {
        "plain": (bn.BatchNorm1d if one else bn.BatchNorm2d)(channels),
        "torch": (torch.nn.BatchNorm1d if one else torch.nn.BatchNorm2d)(channels),
        "ghost": (bn.GhostBatchNorm1d if one else bn.GhostBatchNorm2d)(channels, virtual_batch_size=SIZE),
        "torch, loop": Loop(channels, rank),
        "renorm": (bn.BatchRenorm1d if one else bn.BatchRenorm2d)(channels, warmup=0),
    }


def seconds(layer, x, grad):
    """One training step of the layer."""
    x = x.detach().requires_grad_()
    begin = time.perf_counter()
    layer(x).backward(grad)
    return time.perf_counter() - begin


def main():
    """Print one Markdown row a shape."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, median of {rounds}, ms (times plain)\n"
    )
    print("| layout | shape | plain | torch | ghost | torch, loop | renorm |\n|---|---|---|---|---|---|---|")
    for layout, shape in SHAPES:
        form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        x, grad = (torch.randn(shape).contiguous(memory_format=form) for _ in range(2))
        found = {name: (layer, []) for name, layer in layers(shape[1], len(shape)).items()}
        for number in range(rounds + 5):
            for layer, taken in found.values():
                took = seconds(layer, x, grad)
                if number >= 5:
                    taken.append(took)
        middle = {name: 1e3 * statistics.median(taken) for name, (_, taken) in found.items()}
        shown = " | ".join(f"{ms:.3g} ({ms / middle['plain']:.2f})" for ms in middle.values())
        print(f"| {layout} | {'x'.join(map(str, shape))} | {shown} |")


if __name__ == "__main__":
    main()
