"""Largest output error of a training forward against float64, torch and batchnorm side by side.

Run: python benchmarks/precision.py
"""

import torch

import batchnorm as bn

SHAPE = (8, 16, 28, 28)
RATIOS = (0.0, 1.0, 1e2, 1e4, 1e6)


def exact(x: torch.Tensor) -> torch.Tensor:
    """Return the normalized x in float64, its mean removed twice so that no digit is lost."""
    wide = x.double()
    wide = wide - wide.mean((0, 2, 3), keepdim=True)
    wide = wide - wide.mean((0, 2, 3), keepdim=True)
    return wide / (wide.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()


def main() -> None:
    """Print one Markdown row for each layout and mean."""
    print(f"torch {torch.__version__}, float32, {SHAPE}, standard deviation 1, largest absolute error\n")
    print("| layout | mean / sd | torch | batchnorm |\n|---|---|---|---|")
    for layout, form in (("NCHW", torch.contiguous_format), ("NHWC", torch.channels_last)):
        for ratio in RATIOS:
            generator = torch.Generator().manual_seed(0)
            x = (torch.randn(SHAPE, generator=generator) + ratio).contiguous(memory_format=form)
            errors = [
                (layer(16)(x).double() - exact(x)).abs().max().item()
                for layer in (torch.nn.BatchNorm2d, bn.BatchNorm2d)
            ]
            print(f"| {layout} | {ratio:g} | {errors[0]:.1e} | {errors[1]:.1e} |")


if __name__ == "__main__":
    main()
