"""Measure a case in a process of its own, whose allocator has seen no other sizes.

glibc gives blocks above 32 MiB back to the system and takes fresh pages for the next, unless other sizes have left a
hole in its heap that is large enough: then the same call is several times faster, for torch and for us. Which of the
two happens must not depend on the cases that came before.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from batchnorm.bench.cases import Case
from batchnorm.bench.harness import Effort
from batchnorm.bench.single import measure_case
from batchnorm.errors import BatchNormError

__all__ = ["APART_BYTES", "MeasurementError", "measure_apart"]

Line = dict[str, Any]
APART_BYTES = 32 * 2**20


class MeasurementError(BatchNormError, RuntimeError):
    """The process that measured a case ended without a result."""


def measure_apart(
    case: Case, effort: Effort, phases: Sequence[str], *, compile_anything: bool
) -> Iterator[Line]:
    """As `measure_case`, in a child process with the same number of threads.

    Raises:
        MeasurementError: (RuntimeError) the child ended early; the message is its own.
    """
    request = {
        "case": asdict(case),
        "effort": asdict(effort),
        "phases": list(phases),
        "compile_anything": compile_anything,
        "threads": torch.get_num_threads(),
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "batchnorm.bench.apart", json.dumps(request)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    try:
        for text in child.stdout:
            line = json.loads(text)
            if "error" in line:
                raise MeasurementError(line["error"])
            yield line
        if child.wait():
            raise MeasurementError(
                f"{case.key}: the process that measured it ended with code {child.returncode}"
            )
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def _answer(request: Line) -> Iterator[Line]:
    torch.set_num_threads(request["threads"])
    fields = request["case"]
    case = Case(**(fields | {"shape": tuple(fields["shape"]), "networks": tuple(fields["networks"])}))
    yield from measure_case(
        case, Effort(**request["effort"]), request["phases"], compile_anything=request["compile_anything"]
    )


def main() -> None:
    """Print the records of the case that the argument describes, a line each."""
    try:
        for line in _answer(json.loads(sys.argv[1])):
            print(json.dumps(line), flush=True)
    except BatchNormError as error:
        print(json.dumps({"error": str(error)}), flush=True)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
