"""What it brings to give outputs of a few hundred kilobytes memory that earlier ones have left, and not malloc's.

Prints microseconds of a step of our layer with both limits, in turns with torch's layer and copies, as in `batchnorm
bench`; two processes a shape, so that no limit meets the heap that the other has left. Run it without arguments.
"""

import json
import subprocess
import sys

CASES = (
    ("16x96x14x14", "relu"),
    ("16x192x14x14", "relu6"),
    ("16x256x14x14", "relu"),
    ("16x512x7x7", "relu"),
    ("16x960x7x7", "relu6"),
    ("16x128x28x28", "relu"),
    ("16x144x56x56", "relu6"),
)
LIMITS = (32 * 2**20, 256 * 2**10)


def measure(shape: str, act: str, limit: int) -> float:
    """Seconds of our step in this process, the median of interleaved rounds."""
    from batchnorm.bench.candidates import Workbench
    from batchnorm.bench.cases import Case
    from batchnorm.bench.harness import Effort, interleaved, medians
    from batchnorm.ops import memory

    memory.POOLED_BYTES = limit
    case = Case(tuple(map(int, shape.split("x"))), "contiguous", "float32", act, False)
    return medians(interleaved(Workbench(case).calls("forward_backward"), Effort(budget=1.0)))["batchnorm"]


def main() -> None:
    """Print a table, or measure one case for it."""
    if len(sys.argv) == 4:
        print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
        return
    print("| shape | after the norm | from 32 MiB | from 256 KiB |\n|---|---|---:|---:|")
    for shape, act in CASES:
        found = []
        for limit in LIMITS:
            command = [sys.executable, __file__, shape, act, str(limit)]
            found.append(
                json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            )
        cells = " | ".join(f"{seconds * 1e6:.0f}" for seconds in found)
        print(f"| ({shape.replace('x', ', ')}) | {act} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
