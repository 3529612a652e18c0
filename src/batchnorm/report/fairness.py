"""What was the same for all arms, as far as the records can prove it."""

from dataclasses import dataclass
from typing import Any

from batchnorm.records.grouping import by_seed, diverged, finite, last_epoch
from batchnorm.records.wording import count, rate, seeds
from batchnorm.report.figure import Cell, Table
from batchnorm.report.phrases import listed
from batchnorm.report.view import View, class_counts

__all__ = ["Check", "checks", "rates_table"]


@dataclass(frozen=True)
class Check:
    """One condition of a fair comparison: `holds` is None where the records do not say.

    `construction` marks what the program guarantees and the records cannot prove; `holds` is None then.
    """

    question: str
    holds: bool | None
    detail: str
    construction: bool = False


def checks(view: View) -> list[Check]:
    """Return the conditions that a reader would ask for first."""
    return [_data(view), _weights(view), _seeds(view), _recipe(view), _tuned(view), _edge(view), _test_set()]


def _data(view: View) -> Check:
    question = "Same data for all arms"
    data = view.records.data
    if data is None:
        return Check(question, None, "The records do not describe the data.")
    digest, asked = str(data.get("digest") or ""), str(view.settings.get("data_digest") or "")
    if digest and asked and digest != asked:
        return Check(
            question,
            False,
            f"The digest of the data, {digest[:12]}…, is not the one in the settings, {asked[:12]}….",
        )
    runs = [run for run in view.records.runs.values() if class_counts(run)]
    if len({tuple(class_counts(run)) for run in runs}) > 1:
        return Check(question, False, "Runs differ in how many test samples of each class they counted.")
    sizes = ", ".join(f"{count(_whole(data.get(part)))} {part}" for part in ("train", "validation", "test"))
    detail = f"{data.get('name')}: {sizes} samples; digest {digest[:12]}…, one split."
    if not (digest and asked and runs):
        return Check(question, None, f"{detail} Too little was recorded to check it run by run.")
    agree = f"{count(len(runs))} runs counted the same test samples of each class."
    return Check(question, True, f"{detail} {agree}")


def _weights(view: View) -> Check:
    question = "Same initial weights where shapes agree"
    seen: dict[int, set[str]] = {}
    missing = False
    for arm in view.arms:
        for seed, run in by_seed(arm.best.values()).items():
            digest = run.header.get("initial_weights")
            missing = missing or not digest
            seen.setdefault(seed, set()).add(str(digest))
    if not seen or missing:
        return Check(question, None, "The records do not hold the digests of the initial weights.")
    differ = sorted(seed for seed, digests in seen.items() if len(digests) > 1)
    if differ:
        which = listed([str(seed) for seed in differ])
        return Check(
            question, False, f"Weights outside the norm layers differ between arms for seed {which}."
        )
    if len(view.arms) < 2:
        return Check(question, None, "There is one arm only.")
    return Check(
        question, True, f"Digests of all weights outside norm layers agree, with {seeds(len(seen))}."
    )


def _seeds(view: View) -> Check:
    question = "Same seeds for all arms"
    sets = {tuple(sorted(arm.best)) for arm in view.arms}
    if not sets:
        return Check(question, None, "No run has finished.")
    if len(sets) > 1:
        counts = listed([f"{arm.label} {len(arm.best)}" for arm in view.arms])
        return Check(
            question, False, f"Seeds finished at the best rate: {counts}. Only common ones are compared."
        )
    only = next(iter(sets))
    return Check(
        question, True, f"Seeds {listed([str(seed) for seed in only])}; differences are taken seed by seed."
    )


def _recipe(view: View) -> Check:
    s = view.settings
    parts = [
        f"{name.replace('_', ' ')} {s[name]}"
        for name in ("optimizer", "epochs", "batch_size", "dropout")
        if name in s
    ]
    question = "Same training recipe"
    if not parts:
        return Check(question, None, "The records do not hold the settings.")
    steps = {finite(run.header.get("steps_per_epoch")) for run in view.records.runs.values()}
    lengths = {
        finite(last_epoch(run).get("epoch")) for run in view.records.runs.values() if not diverged(run)
    }
    if len(steps) > 1 or len(lengths) > 1:
        which = "steps an epoch" if len(steps) > 1 else "epochs"
        numbers = listed(sorted(count(value) for value in (steps if len(steps) > 1 else lengths)))
        return Check(question, False, f"Runs differ in their {which}: {numbers}.")
    if not steps or None in steps or None in lengths:
        return Check(question, None, f"{', '.join(parts)}; the length of the runs was not recorded.")
    length = f" and {_epochs(next(iter(lengths)))}" if lengths else ""
    return Check(
        question,
        True,
        f"{', '.join(parts)}; every run took {count(next(iter(steps)))} steps an epoch{length}.",
    )


def _tuned(view: View) -> Check:
    question = "Learning rate tuned for each arm"
    if not view.arms:
        return Check(question, None, "No run has finished.")
    sizes = {len(arm.summary.lrs) for arm in view.arms}
    if sizes == {1}:
        return Check(question, False, "One rate was run. A single rate can favour one arm.")
    grids = listed([f"{arm.label} {len(arm.summary.lrs)}" for arm in view.arms])
    if not all(arm.summary.complete for arm in view.arms):
        return Check(
            question, False, f"Rates run so far: {grids}; not every rate has run with every seed yet."
        )
    return Check(question, min(sizes) > 1, f"Rates run: {grids}. The best is chosen on the validation split.")


def _edge(view: View) -> Check:
    question = "Best rate inside the grid"
    if not view.arms or min(len(arm.summary.lrs) for arm in view.arms) < 2:
        return Check(question, None, "Not every arm has a grid of rates.")
    if any(arm.lost or not arm.summary.complete for arm in view.arms):
        return Check(
            question, None, "Not every arm has a best rate yet: runs are missing, or all of them diverged."
        )
    edges = [
        f"{arm.label} at the {'lower' if arm.summary.at_edge == 'low' else 'upper'} end ({rate(arm.summary.best_lr)})"
        for arm in view.arms
        if arm.summary.at_edge
    ]
    if edges:
        return Check(question, False, f"{listed(edges)}: a better rate may lie beyond.")
    return Check(question, True, "Every arm did worse at both a lower and a higher rate.")


def _test_set() -> Check:
    return Check(
        "Test set kept for the end",
        None,
        "Rates are chosen on the validation split; each run reads the test split once, when it ends. The records "
        "cannot prove it.",
        construction=True,
    )


def _epochs(value: float | None) -> str:
    return f"{count(value)} epoch{'' if value == 1 else 's'}"


def rates_table(view: View) -> Table:
    """Return the grid of each arm and the rate it is judged at."""
    rows: list[list[str | Cell]] = []
    for arm in view.arms:
        mine = arm.summary
        edge = {"low": "lower end", "high": "upper end"}.get(
            mine.at_edge or "", "inside" if len(mine.lrs) > 1 else "-"
        )
        rows.append(
            [
                arm.label,
                ", ".join(rate(lr) for lr in mine.lrs),
                "-" if arm.lost else rate(mine.best_lr),
                "-" if arm.lost else edge,
            ]
        )
    return Table(
        "Learning rates of each arm", ["arm", "rates run", "best", "where in the grid"], rows, text_columns=4
    )


def _whole(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None
