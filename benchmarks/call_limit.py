"""What the training targets could reach where a call cost no more than autograd, and a kernel no more than copies.

A layer in Python is a node of autograd's in Python. Around a node that does nothing, over tensors that exist, a step
takes as long as this script measures; the copies that must be made are those of the file of results. The last column
adds what no statistics can do without: a second reading of the inputs of each pass, at half of what a copy takes.

Run: python benchmarks/call_limit.py benchmarks/results/epyc-2-cores.jsonl, on the machine of the file.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from small_calls import Nothing, measure, step
from torch import nn

from batchnorm.bench.results import Results, read_results
from batchnorm.bench.targets import TARGETS, Target

PASSES = 1.5  # in copies: x once more in forward, x and grad_output once more in backward


def nothing() -> float:
    """Seconds of a forward and backward through an autograd.Function that does nothing."""
    x, grad, weight, bias = (
        torch.randn(64, 84),
        torch.randn(64, 84),
        *(nn.Parameter(torch.randn(84)) for _ in "wb"),
    )
    x.requires_grad_()
    Nothing.outputs = (torch.randn(64, 84), torch.randn(84), torch.randn(84))
    return measure({"": step(lambda x: Nothing.apply(x, weight, bias), x, grad, [weight, bias])}, grad=True)[
        ""
    ]


def limited(results: Results, call: float, more_copies: float) -> Results:
    """The results as they would be if each of our steps took `call` seconds and its copies."""
    overhead = min(
        line["seconds"]["copy"] for line in results.cases
    )  # of a call of a copy, of which there is none

    def of(line: dict[str, Any]) -> dict[str, Any]:
        seconds = line["seconds"]
        ours = call + (line["copies"] + more_copies) * (seconds["copy"] - overhead)
        limit = seconds["torch"] / ours if ours else None
        return line | {"ratios": line["ratios"] | {"torch": {"median": limit}}}

    return Results([results.header, *map(of, results.cases)])


def is_training(target: Target) -> bool:
    """Whether it is a geometric mean of torch's time over ours in training."""
    return target.where.get("phase") == "forward_backward" and target.ratio == "torch" and not target.each


def main() -> None:
    """Print a table."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    results, call = read_results(Path(sys.argv[1]).resolve()), nothing()
    print(f"A step through a node that does nothing: {call * 1e6:.1f} µs.\n")
    print("| target | asked | measured | a node and copies | and both passes |\n|---|---:|---:|---:|---:|")
    bounds = [(call, 0.0), (call, PASSES)]
    for target in filter(is_training, TARGETS):
        found = [target.verdict(each) for each in (results, *(limited(results, *bound) for bound in bounds))]
        values = " | ".join("" if each.value is None else f"{each.value:.2f}" for each in found)
        print(f"| {target.text} | {target.at_least:g} | {values} |")


if __name__ == "__main__":
    main()
