"""Time of a training step of ResNet-18 and MobileNetV2 with torch's layers and with ours fused, same weights.

Run: python benchmarks/end_to_end.py [--out DIR], where DIR is the folder of a `batchnorm bench`
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import networks
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batchnorm.bench.digest import machine_words
from batchnorm.bench.harness import Effort, interleaved, medians, ratio
from batchnorm.bench.machine import IDENTITY, environment
from batchnorm.bench.results import append, read_results, refuse_another_machine
from batchnorm.records.wording import duration, number

# Relative, in the Euclidean norm. Behind 18 and 52 random layers float32 rounding has grown; float64 shows that nothing
# else differs.
TOLERANCE = {torch.float32: 0.05, torch.float64: 1e-9}
FORMS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def batch(count: int, size: int, layout: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Random images and classes."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, size, size, generator=generator, dtype=dtype)
    return images.contiguous(memory_format=FORMS[layout]), torch.randint(
        0, 1000, (count,), generator=generator
    )


def disagreement(name: str, layout: str, dtype: torch.dtype, images: Tensor, labels: Tensor) -> float:
    """The relative difference of the logits, or of all gradients as one vector if that is larger, after one pass.

    Many a single gradient is zero but for rounding: a bias whose only reader is a convolution with a norm behind it.

    Raises:
        SystemExit: it is above `TOLERANCE`.
    """
    found = []
    for network in networks.pair(name):
        network.to(dtype).to(memory_format=FORMS[layout])
        logits = network(images)
        F.cross_entropy(logits, labels).backward()
        grads = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
        found.append((logits.detach(), grads))
    worst = max(((ours - theirs).norm() / theirs.norm()).item() for theirs, ours in zip(*found, strict=True))
    if not worst <= TOLERANCE[dtype]:
        raise SystemExit(
            f"{name}, {layout}, {dtype}: results differ by {worst:.2g}, allowed {TOLERANCE[dtype]:.2g}"
        )
    return worst


def step(network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """One training step: forward, cross-entropy, backward, SGD with momentum."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return run


def measure(name: str, layout: str, arguments: argparse.Namespace) -> dict[str, object]:
    """One record in the format of `bench.jsonl`."""
    exact = disagreement(name, layout, torch.float64, *batch(4, 64, layout, torch.float64))
    images, labels = batch(arguments.batch, arguments.size, layout, torch.float32)
    rounded = disagreement(name, layout, torch.float32, images, labels)
    runs = {}
    for kind, network in zip(("torch", "batchnorm"), networks.pair(name), strict=True):
        runs[kind] = step(network.to(memory_format=FORMS[layout]), images, labels)
    times = interleaved(runs, Effort(budget=0, least=arguments.rounds, most=arguments.rounds))
    return {
        "kind": "step",
        "case": f"{name} batch {arguments.batch} {layout}",
        "network": name,
        "phase": "step",
        "shape": list(images.shape),
        "layout": layout,
        "dtype": "float32",
        "rounds": arguments.rounds,
        "seconds": medians(times),
        "ratios": {"torch": asdict(ratio(times["torch"], times["batchnorm"]))},
        "differs": {"float64": exact, "float32": rounded},
    }


def main() -> None:
    """Print one Markdown row a network and layout, or JSON, and append the records to a folder of results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--network", nargs="*", choices=list(networks.NETWORKS), default=list(networks.NETWORKS)
    )
    parser.add_argument("--layout", nargs="*", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--out", type=Path, help="folder of `batchnorm bench`, to which the records are appended"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.out:
        refuse_another_machine(arguments.out, read_results(arguments.out).machine, environment(), IDENTITY)
    if not arguments.json:
        print(f"{machine_words(environment())}\n")
        size = f"batch {arguments.batch}, {arguments.size}x{arguments.size}, float32"
        print(f"{size}; medians and quartiles of {arguments.rounds} interleaved rounds\n")
        print("| network | layout | torch | batchnorm | torch / batchnorm |\n|---|---|---|---|---|")
    for name in arguments.network:
        for layout in arguments.layout:
            line = measure(name, layout, arguments)
            if arguments.out:
                append(arguments.out, [line])
            print(json.dumps(line) if arguments.json else row(line), flush=True)


def row(line: dict) -> str:
    """A record as a row of the table."""
    seconds, found = line["seconds"], line["ratios"]["torch"]
    spread = f"{number(found['median'])} [{number(found['low'])}, {number(found['high'])}]"
    cells = [
        line["network"],
        line["layout"],
        duration(seconds["torch"]),
        duration(seconds["batchnorm"]),
        spread,
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
