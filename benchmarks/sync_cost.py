"""What the collectives of one SyncBatchNorm layer cost: measured between processes of this machine, and a model.

A collective of p ranks is taken for a ring: p - 1 messages (a gather) or 2 (p - 1) (a reduction), one after the
other, each of alpha + bytes * beta. Both are fitted to each world apart: where it has more processes than there are
cores, a message also waits for its reader to be run.

Run: python benchmarks/sync_cost.py
"""

import argparse
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch
import torch.distributed as dist

from batchnorm.moments import Moments
from batchnorm.reducers import GATHER_UP_TO, GroupReducer

WORLDS = (2, 4, 8)
CHANNELS = (64, 2048, 65536)
FORETOLD = (8, 64, 1024)
WIDE = 8  # bytes of a float64


class Cost(NamedTuple):
    """Messages that follow one another, and the bytes of all of them."""

    messages: int
    sent: float


Algorithm = Callable[[int, int], Cost]


def gather(ranks: int, values: int) -> Cost:
    """Every rank gets every other rank's values."""
    return Cost(ranks - 1, (ranks - 1) * values * WIDE)


def reduction(ranks: int, values: int) -> Cost:
    """Every rank gets the sum: chunks of values / ranks go around twice."""
    return Cost(2 * (ranks - 1), 2 * (ranks - 1) * values * WIDE / ranks)


def tree_reduction(ranks: int, values: int) -> Cost:
    """The same up and down a binary tree, the values passing each way once: what suits small payloads."""
    return Cost(2 * math.ceil(math.log2(ranks)), 2 * values * WIDE)


def forward_gathering(ranks: int, channels: int) -> Cost:
    """Up to 64 ranks: one gather of two counts, the mean and the variance."""
    return gather(ranks, 2 * channels + 2)


def forward_reducing(ranks: int, channels: int, reduce: Algorithm = reduction) -> Cost:
    """Above: one reduction for the mean, one for the variance."""
    return joined(reduce(ranks, channels + 2), reduce(ranks, channels))


def backward(ranks: int, channels: int, reduce: Algorithm = reduction) -> Cost:
    """One reduction of the two sums of the gradient."""
    return reduce(ranks, 2 * channels)


def joined(first: Cost, second: Cost) -> Cost:
    """One after the other."""
    return Cost(first.messages + second.messages, first.sent + second.sent)


STEPS = {
    "forward, one gather": forward_gathering,
    "forward, two reductions": forward_reducing,
    "backward, one reduction": backward,
}


def measured(ranks: int, channels: Sequence[int], rounds: int) -> dict[tuple[str, int], float]:
    """Median seconds of each step at each number of channels, as rank 0 sees them."""
    # Forked before torch has started any thread here, so that eight processes import it once.
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_rank, args=(rank, ranks, folder, channels, rounds, theirs))
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        found: dict[tuple[str, int], float] = mine.recv()
        for process in processes:
            process.join()
    return found


def _rank(
    rank: int, ranks: int, folder: str, channels: Sequence[int], rounds: int, answer: Connection
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    found = {}
    for count in channels:
        local = Moments(32, *torch.rand(2, count, dtype=torch.float64).unbind())
        sums = torch.rand(2, count, dtype=torch.float64)
        calls: dict[str, Callable[[], object]] = {
            "forward, one gather": lambda local=local: GroupReducer(gather_up_to=ranks).moments(local),
            "forward, two reductions": lambda local=local: GroupReducer(gather_up_to=1).moments(local),
            "backward, one reduction": lambda sums=sums: GroupReducer().sum(sums),
        }
        for name, call in calls.items():
            for _ in range(5):
                call()
            times = []
            for _ in range(rounds):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            found[name, count] = statistics.median(times)
    if rank == 0:
        answer.send(found)
    dist.destroy_process_group()


def fitted(times: dict[tuple[str, int, int], float]) -> tuple[float, float]:
    """The alpha (s) and beta (s per byte) that come closest, relatively, to the times of (step, ranks, channels)."""
    scale = torch.tensor([1 / value for value in times.values()], dtype=torch.float64)
    rows = torch.tensor([STEPS[name](*sizes) for name, *sizes in times], dtype=torch.float64)
    ones = torch.ones(len(times), 1, dtype=torch.float64)
    alpha, beta = torch.linalg.lstsq(rows * scale.unsqueeze(1), ones).solution.flatten().tolist()
    return alpha, beta


def seconds(cost: Cost, alpha: float, beta: float) -> float:
    """The model."""
    return cost.messages * alpha + cost.sent * beta


def print_measured(worlds: Sequence[int], rounds: int) -> tuple[float, float]:
    """Print what was measured beside the model fitted to it; return alpha and beta of the first world."""
    cores = multiprocessing.cpu_count()
    print(f"torch {torch.__version__}, gloo over loopback, {cores} cores; medians of {rounds} calls\n")
    print("| ranks | alpha, us | step | C | measured, us | model, us |\n|---|---|---|---|---|---|")
    first = None
    for ranks in worlds:
        times = {
            (name, ranks, channels): value
            for (name, channels), value in measured(ranks, CHANNELS, rounds).items()
        }
        alpha, beta = fitted(times)
        first = first or (alpha, beta)
        for (name, _, channels), value in times.items():
            model = seconds(STEPS[name](ranks, channels), alpha, beta)
            print(
                f"| {ranks} | {alpha * 1e6:.0f} | {name} | {channels} | {value * 1e6:.0f} | {model * 1e6:.0f} |"
            )
    assert first is not None
    return first


def print_foretold(alpha: float, beta: float, channels: int) -> None:
    """Print the model at sizes that nobody has on one machine."""
    print(
        f"\nA layer of {channels} channels, forward and backward, with alpha {alpha * 1e6:.3g} us a message and ",
        end="",
    )
    print(f"beta {beta * 1e9:.2g} ns a byte:\n")
    print(
        "| ranks | forward by | reductions are | messages | KB that a rank gets | ms |\n|---|---|---|---|---|---|"
    )
    for ranks in FORETOLD:
        for shape, reduce in (("rings", reduction), ("trees", tree_reduction)):
            back = backward(ranks, channels, reduce)
            forwards = {
                "one gather": forward_gathering(ranks, channels),
                "two reductions": forward_reducing(ranks, channels, reduce),
            }
            for name, there in forwards.items():
                total = joined(there, back)
                taken = "**" if (name == "one gather") == (ranks <= GATHER_UP_TO) else ""
                milliseconds = seconds(total, alpha, beta) * 1e3
                print(
                    f"| {ranks} | {taken}{name}{taken} | {shape} | {total.messages} | {total.sent / 1e3:.0f} | "
                    f"{milliseconds:.2f} |"
                )


def main() -> None:
    """Measure, fit, foretell; or foretell alone with a network's numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60, help="calls of which the median is taken")
    parser.add_argument("--worlds", type=int, nargs="+", default=WORLDS, help="numbers of processes")
    parser.add_argument("--channels", type=int, default=256, help="of the layer whose cost is foretold")
    parser.add_argument("--alpha", type=float, help="us a message on your network, in place of measuring")
    parser.add_argument("--beta", type=float, default=0.0, help="ns a byte, with --alpha")
    options = parser.parse_args()
    if options.alpha is None:
        alpha, beta = print_measured(options.worlds, options.rounds)
    else:
        alpha, beta = options.alpha / 1e6, options.beta / 1e9
    print_foretold(alpha, beta, options.channels)


if __name__ == "__main__":
    main()
