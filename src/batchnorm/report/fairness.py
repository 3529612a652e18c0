"""What was the same for all arms, as far as the records can prove it."""

from dataclasses import dataclass
from typing import Any

from batchnorm.records.grouping import by_seed
from batchnorm.records.wording import count, rate, seeds
from batchnorm.report.figure import Cell, Table
from batchnorm.report.phrases import listed
from batchnorm.report.view import View

__all__ = ["Check", "checks", "rates_table"]


@dataclass(frozen=True)
class Check:
    """One condition of a fair comparison: `holds` is None where the records do not say."""

    question: str
    holds: bool | None
    detail: str


def checks(view: View) -> list[Check]:
    """Return the conditions that a reader would ask for first."""
    return [_data(view), _weights(view), _seeds(view), _recipe(view), _tuned(view), _edge(view), _test_set()]


def _data(view: View) -> Check:
    data = view.records.data
    if data is None:
        return Check("Same data for all arms", None, "The records do not describe the data.")
    digest = str(data.get("digest") or "")[:12]
    sizes = ", ".join(f"{count(_whole(data.get(part)))} {part}" for part in ("train", "validation", "test"))
    return Check(
        "Same data for all arms", True, f"{data.get('name')}: {sizes} samples; digest {digest}…, one split."
    )


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
    if not parts:
        return Check("Same training recipe", None, "The records do not hold the settings.")
    return Check(
        "Same training recipe",
        True,
        f"{', '.join(parts)}; only the norm layers and the learning rate differ.",
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
        True,
        "Rates are chosen on the validation split; each run reads the test split once, when it ends.",
    )


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
