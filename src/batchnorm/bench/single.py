"""Measure one case and hand over a record for each phase."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

import torch

from batchnorm.bench.candidates import Workbench
from batchnorm.bench.cases import PHASES, Case, copies
from batchnorm.bench.harness import Effort, interleaved, medians, ratio
from batchnorm.bench.summary import DISTURBED
from batchnorm.bench.waiting import waited

__all__ = ["ATTEMPTS", "COMPILED_PHASES", "measure_case", "record", "undisturbed"]

ATTEMPTS = 3

COMPILED_PHASES = ("forward_backward", "evaluation")
Line = dict[str, Any]
Times = dict[str, list[float]]


def measure_case(
    case: Case, effort: Effort, phases: Iterable[str] = PHASES, *, compile_anything: bool = True
) -> Iterator[Line]:
    """Yield a record for each phase of one case, after ours and torch's have been found to agree."""
    bench = Workbench(case)
    bench.check()
    not_run = _compile(bench, compile_anything) if case.compiled else {}
    for phase in phases:
        times, waiting = undisturbed(lambda: interleaved(bench.calls(phase), effort))  # noqa: B023
        yield record(case, phase, times, waiting, not_run if phase in COMPILED_PHASES else {})


def undisturbed(
    attempt: Callable[[], Times],
    *,
    waited: Callable[[], float | None] = waited,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Times, float | None]:
    """Repeat a measurement, up to `ATTEMPTS` times, until other processes leave the cores to it.

    Returns:
        The times of the quietest attempt, and the seconds that threads waited for a core in a second of it; None
        where the system does not tell.
    """
    best: tuple[Times, float | None] | None = None
    for _ in range(ATTEMPTS):
        before, start = waited(), clock()
        times = attempt()
        taken, after = clock() - start, waited()
        waiting = None if before is None or after is None else (after - before) / taken
        if best is None or best[1] is None or (waiting is not None and waiting < best[1]):
            best = times, waiting
        if waiting is None or waiting <= DISTURBED:
            break
    assert best is not None
    return best


def _compile(bench: Workbench, allowed: bool) -> dict[str, str]:
    """Compile both sides for training and evaluation; why not, where that fails."""
    names = ("torch", "batchnorm")
    if not allowed:
        return {f"{name}_compiled": "switched off" for name in names}
    torch.compiler.reset()
    reasons = {}
    for name in names:
        try:
            for phase in COMPILED_PHASES:
                bench.compile(name, phase)
        except Exception as error:  # whatever the compiler, or the lack of one, comes up with
            bench.forget(name)
            text = next((line for line in str(error).splitlines() if line.strip()), "")
            reasons[f"{name}_compiled"] = f"{type(error).__name__}: {text}"[:200]
    return reasons


def record(case: Case, phase: str, times: Times, waiting: float | None, not_run: dict[str, str]) -> Line:
    ours, bound = times["batchnorm"], copies(case.act, case.residual, phase)
    scales = {"copy": bound, "warm_copy": bound}
    others = [name for name in times if name != "batchnorm"]
    tensors = {"forward": 2, "forward_backward": 4, "evaluation": 2}[phase] + case.residual
    return {
        "kind": "case",
        "case": case.key,
        **case.record(),
        "phase": phase,
        "copies": bound,
        "working_set": tensors * case.bytes,
        "rounds": len(ours),
        "waiting": waiting,
        "seconds": medians(times),
        "ratios": {name: asdict(ratio(times[name], ours, scales.get(name, 1.0))) for name in others},
        "not_run": not_run,
    }
