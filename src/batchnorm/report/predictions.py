"""The prediction table: test samples with label, and each arm's prediction and confidence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batchnorm.records import Run
from batchnorm.records.grouping import entries, finite
from batchnorm.records.wording import number, percent
from batchnorm.report.view import Arm, View

__all__ = ["KINDS", "Guess", "Predictions", "Row", "predictions"]

KINDS = {"disagreement": "arms disagree", "mistake": "all wrong", "right": "all right"}
IMAGE = "data:image/png;base64,"
_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")


@dataclass(frozen=True)
class Guess:
    """What one arm says of one sample."""

    name: str
    right: bool
    confidence: float | None

    @property
    def percent(self) -> str:
        """The confidence as text."""
        return percent(self.confidence)

    @property
    def order(self) -> float:
        """What the column sorts by: mistakes first, the surest of them on top."""
        sure = self.confidence or 0.0
        return 1 + sure if self.right else 1 - sure


@dataclass(frozen=True)
class Row:
    """One sample of the table."""

    index: int
    label: str
    image: str | None
    features: str
    guesses: Sequence[Guess | None]

    @property
    def kind(self) -> str:
        """`disagreement`, `mistake` (all the arms that say something are wrong) or `right`."""
        known = [guess for guess in self.guesses if guess is not None]
        if len({guess.name for guess in known}) > 1:
            return "disagreement"
        return "right" if all(guess.right for guess in known) else "mistake"

    @property
    def has_mistake(self) -> bool:
        """Whether any arm is wrong."""
        return any(guess is not None and not guess.right for guess in self.guesses)


@dataclass(frozen=True)
class Predictions:
    """The whole table: one column a arm that has predictions, all from runs with the same seed where possible."""

    arms: Sequence[Arm]
    seeds: Sequence[int]
    rows: Sequence[Row]
    recorded: int

    @property
    def same_seed(self) -> bool:
        """Whether all columns come from one seed."""
        return len(set(self.seeds)) == 1

    @property
    def has_images(self) -> bool:
        """Whether any sample has a picture."""
        return any(row.image for row in self.rows)

    def count(self, kind: str) -> int:
        """Return how many rows a filter leaves."""
        if kind == "mistakes":
            return sum(row.has_mistake for row in self.rows)
        if kind == "disagreements":
            return sum(row.kind == "disagreement" for row in self.rows)
        return len(self.rows)


def predictions(view: View) -> Predictions:
    """Gather the predictions of each arm at its best rate; disagreements first, then mistakes."""
    chosen = [(arm, *found) for arm in view.arms if (found := _choose(arm, _common_seed(view.arms)))]
    tables = [_by_index(run) for _, _, run in chosen]
    rows = []
    for line in view.records.samples:
        index, label = finite(line.get("index")), finite(line.get("label"))
        if index is None or label is None:
            continue
        guesses = [_guess(view, table.get(int(index)), int(label)) for table in tables]
        image, features = _image(line.get("image")), _features(line.get("features"))
        rows.append(Row(int(index), view.class_name(label), image, features, guesses))
    order = list(KINDS)
    rows.sort(key=lambda row: (order.index(row.kind), row.index))
    shown = rows[: view.detail.samples] if chosen else []
    return Predictions([arm for arm, _, _ in chosen], [seed for _, seed, _ in chosen], shown, len(rows))


def _common_seed(arms: Sequence[Arm]) -> int | None:
    sets = [{seed for seed, run in arm.finished.items() if run.prediction} for arm in arms]
    common = set.intersection(*[found for found in sets if found]) if any(sets) else set()
    return min(common) if common else None


def _choose(arm: Arm, seed: int | None) -> tuple[int, Run] | None:
    known = {number: run for number, run in arm.finished.items() if run.prediction}
    if not known:
        return None
    best = seed if seed in known else min(known)
    return best, known[best]


def _by_index(run: Run) -> dict[int, tuple[Any, Any]]:
    line = run.prediction or {}
    lists = [entries(line.get(name)) for name in ("index", "predicted", "confidence")]
    table = {}
    for index, predicted, confidence in zip(*lists, strict=False):
        place = finite(index)
        if place is not None:
            table[int(place)] = (predicted, confidence)
    return table


def _guess(view: View, found: tuple[Any, Any] | None, label: int) -> Guess | None:
    if found is None or (predicted := finite(found[0])) is None:
        return None
    confidence = finite(found[1])
    if confidence is not None:
        confidence = min(max(confidence, 0.0), 1.0)
    return Guess(view.class_name(predicted), int(predicted) == label, confidence)


def _image(value: Any) -> str | None:
    # Anything else in a src attribute could make the page ask the network for it.
    if isinstance(value, str) and value.startswith(IMAGE) and _BASE64.issuperset(value[len(IMAGE) :]):
        return value
    return None


def _features(values: Any) -> str:
    if not isinstance(values, list) or not values:
        return ""
    return ", ".join(number(finite(value)) for value in values)
