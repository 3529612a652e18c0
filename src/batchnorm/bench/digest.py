"""Everything a run found, as one JSON value and as sentences and rows: terminal, page and docs say the same."""

from dataclasses import asdict
from typing import Any

from batchnorm.bench.results import Results
from batchnorm.bench.summary import GROUPS, PHASE_NAMES, Row, disturbed, summarize
from batchnorm.bench.targets import Verdict, verdicts
from batchnorm.records.wording import MISSING, duration, number

__all__ = [
    "COMPILED_HEAD",
    "LAYOUT_NAMES",
    "SHORT_PHASES",
    "STEP_HEAD",
    "SUMMARY_HEAD",
    "TARGET_HEAD",
    "answer",
    "compiled_rows",
    "digest",
    "machine_words",
    "misses",
    "not_run",
    "quartiles",
    "shape_words",
    "step_rows",
    "summary_rows",
    "target_rows",
]

TARGET_HEAD = ("target", "asked", "measured", "limit", "verdict", "n")
SUMMARY_HEAD = ("what", "n", "torch / ours", "worst", "copies")
STEP_HEAD = ("network, batch", "torch", "ours", "torch / ours", "quartiles")
COMPILED_HEAD = ("what", "n", "torch c / ours e", "torch c / ours c", "ours e / ours c")
SHORT_PHASES = {"forward_backward": "training", "forward": "forward", "evaluation": "evaluation"}
LAYOUT_NAMES = {"contiguous": "NCHW", "channels_last": "channels_last"}


def digest(results: Results) -> dict[str, Any]:
    """Machine, settings, records, summary and targets as one JSON value."""
    return {
        **results.header,
        "summary": [asdict(row) for row in summarize(results.cases)],
        "targets": [_target(verdict) for verdict in verdicts(results)],
        "cases": results.cases,
        "steps": results.steps,
    }


def answer(results: Results) -> list[str]:
    """The sentences a reader needs first."""
    sentences = []
    for row in sorted(
        summarize(results.cases), key=lambda row: (row.layout != "contiguous", row.group != "bn+act")
    ):
        if row.phase == "forward_backward" and row.dtype == "float32" and row.group in ("bn", "bn+act"):
            name = "BN and its activation" if row.group == "bn+act" else "BN alone"
            sentences.append(
                f"{name}, forward and backward, {LAYOUT_NAMES[row.layout]} float32: {number(row.torch)} times as "
                f"fast as torch (geometric mean of {_counted(row.count, 'shape')}), worst {number(row.worst)} at "
                f"{shape_words(row.worst_shape)}."
            )
    found = [verdict for verdict in verdicts(results) if verdict.met is not None]
    if found:
        met = sum(1 for verdict in found if verdict.met)
        sentences.append(f"{met} of {_counted(len(found), 'target')} that could be judged are met.")
    count = disturbed(results.cases)
    if count:
        sentences.append(
            f"Other processes took the cores during {count} of {_counted(len(results.cases), 'measurement')}: those "
            "numbers are unreliable. The same command with the same --out measures them again."
        )
    if results.machine.get("backend") == "reference":
        sentences.append("The kernels are not in use here: these are the plain-torch layers.")
    return sentences


def target_rows(results: Results) -> list[tuple[str, ...]]:
    """One row a target, as `TARGET_HEAD` says."""
    return [_target_row(verdict) for verdict in verdicts(results)]


def misses(results: Results) -> list[str]:
    """Where the targets that hold shape by shape are missed, and by how many."""
    return [
        f"{verdict.target.text}: {verdict.failing} of {verdict.count} miss it, worst {number(verdict.value)} "
        f"at {verdict.where}."
        for verdict in verdicts(results)
        if verdict.target.each and verdict.met is False
    ]


def summary_rows(results: Results) -> dict[str, list[tuple[str, ...]]]:
    """By the name of the pass: one row a variant, layout and dtype, as `SUMMARY_HEAD` says."""
    found = summarize(results.cases)
    tables: dict[str, list[tuple[str, ...]]] = {
        name: [
            (_name(row), str(row.count), number(row.torch), number(row.worst), number(row.copies))
            for row in found
            if row.phase == phase
        ]
        for phase, name in PHASE_NAMES.items()
    }
    return {name: rows for name, rows in tables.items() if rows}


def compiled_rows(results: Results) -> list[tuple[str, ...]]:
    """One row wherever torch.compile was measured, as `COMPILED_HEAD` says."""
    rows: list[tuple[str, ...]] = []
    for row in summarize([line for line in results.cases if "torch_compiled" in line["ratios"]]):
        theirs, ours = row.torch_compiled, row.batchnorm_compiled
        rows.append(
            (
                f"{_name(row)}, {SHORT_PHASES[row.phase]}",
                str(row.count),
                number(theirs),
                number(theirs / ours) if theirs and ours else MISSING,
                number(1 / ours) if ours else MISSING,
            )
        )
    return rows


def step_rows(results: Results) -> list[tuple[str, ...]]:
    """One row a training step of a whole network, as `STEP_HEAD` says."""
    return [
        (
            f"{line['network']}, {line['shape'][0]}, {LAYOUT_NAMES[line['layout']]} {line['dtype']}",
            duration(line["seconds"]["torch"]),
            duration(line["seconds"]["batchnorm"]),
            number(line["ratios"]["torch"]["median"]),
            quartiles(line),
        )
        for line in results.steps
    ]


def quartiles(line: dict[str, Any]) -> str:
    """Between which ratios of torch to ours half of the rounds lie."""
    found = line["ratios"]["torch"]
    return f"{number(found['low'])} to {number(found['high'])}"


def not_run(results: Results) -> list[str]:
    """What was meant to be measured and was not, with the reason; each once."""
    reasons = {
        f"{name.replace('_', ' ')}: {reason}"
        for line in results.cases
        for name, reason in line["not_run"].items()
    }
    return sorted(reasons)


def shape_words(shape: tuple[int, ...] | list[int]) -> str:
    """A shape as one writes it.

    Example:
        >>> shape_words((16, 64, 56, 56))
        '(16, 64, 56, 56)'
    """
    return f"({', '.join(map(str, shape))})"


def machine_words(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    cache, isa = machine.get("cache_bytes"), machine.get("isa")
    kernels = f"{machine['backend']}, {isa}" if isa else machine["backend"]
    parts = [
        f"{machine['cpu']}",
        _counted(machine["cores"], "core"),
        _counted(machine["threads"], "thread"),
        f"{cache // 2**20} MiB last-level cache" if cache else "cache of unknown size",
        f"torch {machine['torch']}",
        f"batchnorm {machine['batchnorm']} ({kernels})",
        f"transparent huge pages {machine['huge_pages'] or 'unknown'}",
    ]
    return ", ".join(parts)


def _name(row: Row) -> str:
    return f"{GROUPS[row.group]}, {LAYOUT_NAMES[row.layout]} {row.dtype}"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _target(verdict: Verdict) -> dict[str, Any]:
    target = verdict.target
    return {
        "target": target.text,
        "at_least": target.at_least,
        "at_most": target.at_most,
        "noise": target.noise,
        "value": verdict.value,
        "met": verdict.met,
        "short_by": verdict.short_by,
        "measured": verdict.count,
        "failing": verdict.failing,
        "where": verdict.where,
        "copies_allow": verdict.copies_allow,
    }


def _target_row(verdict: Verdict) -> tuple[str, ...]:
    target = verdict.target
    asked = f"<= {target.at_most:g}" if target.at_most is not None else f">= {target.at_least:g}"
    if target.noise:
        asked += f" ({(target.at_least or 0) - target.noise:g})"
    if verdict.met is None:
        return target.text, asked, MISSING, "", "not run", "0"
    met = "met" if verdict.met else f"missed by {_percent(verdict.short_by or 0.0)}"
    allowed = "" if verdict.copies_allow is None else number(verdict.copies_allow)
    return target.text, asked, number(verdict.value), allowed, met, str(verdict.count)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f}%" if fraction >= 0.01 else f"{100 * fraction:.1f}%"
