"""Measure cases one after the other."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from batchnorm.bench.apart import APART_BYTES, measure_apart
from batchnorm.bench.cases import PHASES, Case
from batchnorm.bench.harness import Effort
from batchnorm.bench.single import measure_case

__all__ = ["measure"]

Line = dict[str, Any]


def measure(
    cases: Iterable[Case],
    effort: Effort,
    done: set[tuple[str, str]],
    *,
    compile_anything: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[Line]:
    """Yield a record for every case and phase that is not in `done`, those of large tensors from their own processes.

    Args:
        cases: what to measure.
        effort: how long.
        done: (case, phase) that are there already.
        compile_anything: False leaves torch.compile out everywhere.
        tell: called with the name of each case before it is measured.
    """
    for case in cases:
        missing = [phase for phase in PHASES if (case.key, phase) not in done]
        if missing:
            tell(case.key)
            way = measure_case if case.bytes < APART_BYTES else measure_apart
            yield from way(case, effort, missing, compile_anything=compile_anything)
