"""What micro-batches have of the whole batch: running statistics, gradients and outputs, by recipe.

Run: python benchmarks/accumulation.py
"""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import batchnorm as bn

MICRO, PARTS, CHANNELS, MOMENTUM, STEPS, SETTLED = 4, 8, 64, 0.1, 200, 80


def batch(seed: int) -> torch.Tensor:
    """Return independent samples (N, C) of mean 2 and variance 1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(MICRO * PARTS, CHANNELS, generator=generator) + 2


def noise(momentum: float, parts: int) -> float:
    """Root mean square error of the running mean, in standard deviations, once it has settled."""
    layer, errors = bn.BatchNorm1d(CHANNELS, momentum=momentum), []
    for step in range(STEPS):
        for part in batch(step).chunk(parts):
            layer(part)
        if step >= SETTLED:
            errors.append(layer.running_mean - 2)
    return torch.stack(errors).square().mean().sqrt().item()


def recalibrated() -> float:
    """The same after one pass of `update_bn` over the batches."""
    layer = bn.BatchNorm1d(CHANNELS)
    update_bn([batch(step) for step in range(STEPS)], layer)
    return (layer.running_mean - 2).square().mean().sqrt().item()


def gradient_distance(norm: nn.Module) -> float:
    """|g - g_whole| / |g_whole| of a network's first weights, g accumulated over micro-batches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(CHANNELS, CHANNELS, bias=False), norm, nn.ReLU(), nn.Linear(CHANNELS, 1))
    for seed in range(200):  # running statistics that are worth something, which renormalization reads
        model(batch(seed + 1000))
    whole = copy.deepcopy(model)
    x = batch(0)
    target = torch.randn(len(x), 1, generator=torch.Generator().manual_seed(1))
    (whole(x) - target).square().mean().backward()
    for part in range(PARTS):
        ((model(x[part::PARTS]) - target[part::PARTS]).square().mean() / PARTS).backward()
    wide = whole[0].weight.grad
    return ((model[0].weight.grad - wide).norm() / wide.norm()).item()


def main() -> None:
    """Print two Markdown tables."""
    smaller = 1 - (1 - MOMENTUM) ** (1 / PARTS)
    print(f"{PARTS} micro-batches of {MICRO} samples a step, independent values of mean 2 and variance 1\n")
    print("| running mean | error, standard deviations |\n|---|---|")
    print(f"| momentum {MOMENTUM}, a micro-batch at a time | {noise(MOMENTUM, PARTS):.4f} |")
    print(f"| momentum 1 - (1 - {MOMENTUM})^(1/{PARTS}) = {smaller:.4f} | {noise(smaller, PARTS):.4f} |")
    print(f"| momentum {MOMENTUM}, whole batches | {noise(MOMENTUM, 1):.4f} |")
    print(f"| one pass of update_bn over {STEPS} batches | {recalibrated():.4f} |")
    plain = gradient_distance(bn.BatchNorm1d(CHANNELS))
    renorm = gradient_distance(bn.BatchRenorm1d(CHANNELS, r_max=3.0, d_max=5.0, warmup=0, momentum=0.01))
    print("\n| accumulated gradient | distance from the whole batch's |\n|---|---|")
    print(f"| BatchNorm1d | {plain:.0%} |")
    print(f"| BatchRenorm1d, settled | {renorm:.0%} |")


if __name__ == "__main__":
    main()
