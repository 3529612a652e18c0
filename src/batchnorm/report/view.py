"""The records as the sections need them: arms in order, each with its runs at its best rate."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from batchnorm.records import Records, Run
from batchnorm.records.grouping import by_arm, by_rate, by_seed, diverged, entries, finite
from batchnorm.records.identity import Identity, identity
from batchnorm.records.store import Line
from batchnorm.records.summary import ArmSummary, Summary, summarize
from batchnorm.records.wording import percent
from batchnorm.report.phrases import phrase

__all__ = ["FULL", "Arm", "Detail", "View", "class_counts", "look", "thin"]

T = TypeVar("T")
# More lines than this cannot be told apart where each arm draws several.
CROWDED = 4


@dataclass(frozen=True)
class Detail:
    """How much of the records a page shows; lowered until it fits the size that mail programs carry."""

    samples: int
    epochs: int
    sites: int


FULL = Detail(samples=400, epochs=80, sites=40)


@dataclass(frozen=True)
class Arm:
    """One (arm, placement): its numbers, how it is drawn and called, and its runs at the best rate."""

    summary: ArmSummary
    identity: Identity
    phrase: str
    best: dict[int, Run]

    @property
    def label(self) -> str:
        """The short name for legends and table heads."""
        return self.summary.label

    @property
    def manner(self) -> str:
        """How a sentence begins: `With batch norm`."""
        return "Without normalization" if self.is_baseline else f"With {self.phrase}"

    @property
    def lost(self) -> bool:
        """Whether every run diverged."""
        return 0 < self.summary.runs == self.summary.diverged

    @property
    def fallen(self) -> int:
        """How many runs at the best rate diverged."""
        return len(self.best) - len(self.finished)

    @property
    def marker(self) -> str:
        """The marker; hollow before the activation where there are arms after it as well."""
        hollow = self.summary.placement == "before" and self.label != self.summary.arm
        return self.identity.marker + ("-open" if hollow else "")

    @property
    def is_baseline(self) -> bool:
        """Whether this is the arm without normalization."""
        return self.summary.arm == "none"

    @cached_property
    def finished(self) -> dict[int, Run]:
        """The runs at the best rate that did not diverge."""
        return {seed: run for seed, run in self.best.items() if not diverged(run)}

    @cached_property
    def activations(self) -> dict[tuple[str, str], dict[int, list[Line]]]:
        """The `activation` lines of the finished runs: by site and side, then by seed."""
        index: dict[tuple[str, str], dict[int, list[Line]]] = {}
        for seed, run in self.finished.items():
            for line in run.activations:
                place = (str(line.get("site")), str(line.get("where")))
                index.setdefault(place, {}).setdefault(seed, []).append(line)
        return index


@dataclass(frozen=True)
class View:
    """Everything that the sections draw from."""

    records: Records
    summary: Summary
    arms: tuple[Arm, ...]
    detail: Detail = FULL

    @property
    def settings(self) -> dict[str, Any]:
        """What decided the numbers, as the config line has it."""
        settings = self.records.config.get("settings")
        return settings if isinstance(settings, dict) else {}

    @property
    def baseline(self) -> Arm | None:
        """The arm without normalization, if it has run."""
        return next((arm for arm in self.arms if arm.is_baseline), None)

    @property
    def others(self) -> tuple[Arm, ...]:
        """The arms that are compared with the baseline, or all where there is none."""
        return tuple(arm for arm in self.arms if not arm.is_baseline)

    @property
    def main(self) -> Arm | None:
        """The arm that the first sentence is about.

        Batch norm where it has run, else the first in the order of display. Between placements the
        validation split decides: choosing on the test split would flatter.
        """
        others = self.others
        if not others:
            return None
        name = "batch" if any(arm.summary.arm == "batch" for arm in others) else others[0].summary.arm
        same = [arm for arm in others if arm.summary.arm == name]
        return max(same, key=_validation)

    def shown(self, arm: Arm) -> bool | str:
        """Whether a crowded plot draws an arm at once, or only when it is asked for in the legend."""
        crowded = len(self.arms) > CROWDED
        return "legendonly" if crowded and arm not in self.site_arms else True

    @property
    def site_arms(self) -> tuple[Arm, ...]:
        """The baseline, and the arm to compare its sites with.

        With several placements the sites of `none` stand at the first of them, so an arm with its layers at
        another place would be compared with another point of the network.
        """
        main, base = self.main, self.baseline
        first = next((str(place) for place in entries(self.settings.get("placements"))), None)
        if main is not None and base is not None and main.label != main.summary.arm and first is not None:
            same = [arm for arm in self.others if arm.summary.arm == main.summary.arm]
            main = next((arm for arm in same if arm.summary.placement == first), main)
        return tuple(arm for arm in (base, main) if arm is not None)

    @property
    def place_note(self) -> str:
        """Where the sites of `none` stand, if arms differ in that."""
        places = [str(place) for place in entries(self.settings.get("placements"))]
        if self.baseline is None or len({arm.summary.placement for arm in self.others}) < 2 or not places:
            return ""
        return f" The values of none are taken {places[0]} the activation; compare them with arms that have it there."

    @property
    def comparable(self) -> tuple[Arm, ...]:
        """The other arms whose differences to the baseline mean something: both have run their whole grids."""
        if self.baseline is None or not self.baseline.summary.complete:
            return ()
        return tuple(arm for arm in self.others if arm.summary.complete)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes as text; empty where the records do not say."""
        return [str(name) for name in entries((self.records.data or {}).get("class_names"))]

    @cached_property
    def class_counts(self) -> list[int]:
        """How many test samples each class has, from the first confusion matrix; empty where there is none."""
        runs = (run for arm in self.arms for run in arm.finished.values())
        return next((counts for run in runs if (counts := class_counts(run))), [])

    @property
    def chance(self) -> float | None:
        """Test accuracy of always guessing the most frequent class; of equally frequent ones where unknown."""
        if self.class_counts:
            return max(self.class_counts) / sum(self.class_counts)
        return 1 / len(self.class_names) if self.class_names else None

    @property
    def chance_note(self) -> str:
        """What chance means here, in words that follow a number or stand alone."""
        guess = "always guessing the most frequent class of the test set" if self.class_counts else "guessing"
        return f"{percent(self.chance)}, {guess}"

    def class_name(self, number: Any) -> str:
        """Return the name of a class, or its number where it has none."""
        value = finite(number)
        names = self.class_names
        if value is None:
            return "?"
        return names[int(value)] if 0 <= value < len(names) else str(int(value))


def look(records: Records, detail: Detail = FULL) -> View:
    """Prepare records for drawing."""
    summary = summarize(records)
    groups = by_arm(records.runs.values())
    several = len({placement for _, placement in groups if placement}) > 1
    arms = []
    for arm in summary.arms:
        at_best = [] if arm.best_lr is None else by_rate(groups[arm.key])[arm.best_lr]
        words = phrase(arm.arm, arm.placement, several=several)
        arms.append(Arm(arm, identity(arm.arm), words, by_seed(at_best)))
    return View(records, summary, tuple(arms), detail)


def class_counts(run: Run) -> list[int]:
    """Return the number of test samples of each class that a run's confusion matrix counts."""
    rows = [entries(row) for row in entries(run.final.get("confusion"))]
    counts = [int(sum(max(finite(value) or 0, 0) for value in row)) for row in rows]
    return counts if sum(counts) > 0 else []


def thin(items: Sequence[T], limit: int) -> list[T]:
    """Return at most `limit` items, evenly spread, the first and the last among them."""
    if len(items) <= limit or limit < 2:
        return list(items[:limit])
    chosen: Iterable[int] = {round(i * (len(items) - 1) / (limit - 1)) for i in range(limit)}
    return [items[i] for i in sorted(chosen)]


def _validation(arm: Arm) -> float:
    best = arm.summary.best
    return -1.0 if best is None or best.val_accuracy is None else best.val_accuracy.mean
