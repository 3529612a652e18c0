"""What keeps the training targets out of reach: the call, or the kernels.

Three geometric means beside the measured one, from a file of results and two times that this script measures.
"Without the call": our times less what a step over (64, 84) takes around its kernels. "A node and copies": an
autograd.Function that does nothing, which every layer in Python has, and the copies that must be made. "And both
passes": what no statistics can do without, a second reading of the inputs of each pass, at half of a copy's time.

Run: python benchmarks/call_limit.py benchmarks/results/epyc-2-cores.jsonl, on the machine of the file.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from small_calls import calls, measure

from batchnorm.bench.results import Results, read_results
from batchnorm.bench.targets import TARGETS, Target

PASSES = 1.5  # in copies: x once more in forward, x and grad_output once more in backward

Line = dict[str, Any]


def otherwise(results: Results, ours: Callable[[Line], float]) -> Results:
    """The results as they would be if `ours` told the seconds of our calls."""

    def of(line: Line) -> Line:
        limit = line["seconds"]["torch"] / ours(line)
        return line | {"ratios": line["ratios"] | {"torch": {"median": limit}}}

    return Results([results.header, *map(of, results.cases)])


def is_training(target: Target) -> bool:
    """Whether it is a geometric mean of torch's time over ours in training."""
    return target.where.get("phase") == "forward_backward" and target.ratio == "torch" and not target.each


def main() -> None:
    """Print a table."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    results = read_results(Path(sys.argv[1]).resolve())
    step = measure(calls((64, 84))["training"], grad=True)
    node, call = step["an empty Function"], step["ours"] - step["our kernels"]
    # Of a call of a copy, which a step does not make.
    overhead = min(line["seconds"]["copy"] for line in results.cases)

    def copies(line: Line, more: float) -> float:
        return node + (line["copies"] + more) * (line["seconds"]["copy"] - overhead)

    columns = {
        "without the call": otherwise(results, lambda line: max(line["seconds"]["batchnorm"] - call, 1e-6)),
        "a node and copies": otherwise(results, lambda line: copies(line, 0)),
        "and both passes": otherwise(results, lambda line: copies(line, PASSES)),
    }
    print(
        f"A step takes {call * 1e6:.1f} µs around its kernels, a node that does nothing {node * 1e6:.1f}.\n"
    )
    print(f"| target | asked | measured | {' | '.join(columns)} |\n|---|{'---:|' * (2 + len(columns))}")
    for target in filter(is_training, TARGETS):
        found = [target.verdict(each) for each in (results, *columns.values())]
        values = " | ".join("" if each.value is None else f"{each.value:.2f}" for each in found)
        print(f"| {target.text} | {target.at_least:g} | {values} |")


if __name__ == "__main__":
    main()
