"""The page's first sentences: what was found, with its interval, and what it does not show."""

from dataclasses import dataclass

from markupsafe import Markup

from batchnorm.records.intervals import Interval
from batchnorm.records.wording import (
    count,
    duration,
    epochs,
    few,
    percent,
    percent_interval,
    points,
    rate,
    seconds_difference,
    seeds,
)
from batchnorm.report.figure import Cell, Table
from batchnorm.report.findings import supported
from batchnorm.report.phrases import listed
from batchnorm.report.view import Arm, View

__all__ = ["Answer", "answer", "arms_table"]


@dataclass(frozen=True)
class Answer:
    """Sentences in the order of reading; `warnings` says what weakens them."""

    lead: Markup
    more: tuple[str, ...]
    warnings: tuple[str, ...]
    limits: str


def answer(view: View) -> Answer:
    """Write the answer that the records support, and nothing beyond it."""
    main, base = view.main, view.baseline
    more: list[str] = []
    if main is None and base is None:
        lead = Markup("No run has finished yet, so there is nothing to say.")
    elif main is None or base is None:
        lead = _alone(main or base)  # type: ignore[arg-type]
        more.append(_no_comparison(view))
    elif main not in view.comparable:
        lead = _unfinished(main, base)
        more.append(
            "Not every learning rate has run with every seed yet. Until then the arms stand at rates that may not be "
            "their best, and a difference between them says nothing about normalization."
        )
    elif main.summary.survivors and main.finished and base.finished:
        lead = _survivors(main, base)
        more += [text for text in (_speed(main, base), _others(view, main)) if text]
    else:
        lead = _accuracy(main, base)
        more += [text for text in (_speed(main, base), _others(view, main)) if text]
    tuned = "" if view.others and main not in view.comparable and base else _tuning(view, main, base)
    return Answer(lead, (*more, tuned) if tuned else tuple(more), tuple(_warnings(view)), _limits(view))


def _alone(arm: Arm) -> Markup:
    test = arm.summary.test_accuracy
    if test is None:
        return _none_left(arm)
    return Markup("{} the network reached <strong>{}</strong> test accuracy{} ({}).").format(
        arm.manner, percent(test.mean), _ends(test), seeds(test.n)
    )


def _unfinished(main: Arm, base: Arm) -> Markup:
    parts = [_alone(arm) for arm in (main, base)]
    return Markup("Unfinished. {} {}").format(*parts)


def _accuracy(main: Arm, base: Arm) -> Markup:
    ours, theirs, gap = (
        main.summary.test_accuracy,
        base.summary.test_accuracy,
        main.summary.accuracy_difference,
    )
    if ours is None or theirs is None:
        parts = [_alone(arm) for arm in (main, base)]
        return Markup(" ").join(parts)
    reached = Markup("{} the network reached <strong>{}</strong> test accuracy{} ({})").format(
        main.manner, percent(ours.mean), _ends(ours), seeds(ours.n)
    )
    if gap is None:
        return Markup(
            "{}, and without it {} ({}): no seed finished in both, so the two are not compared."
        ).format(reached, percent_interval(theirs), seeds(theirs.n))
    if gap.n < 2:
        return Markup(
            "{}, and without it {}. With one seed in common there is no interval: "
            "the difference of {} may be chance."
        ).format(reached, percent(theirs.mean), points(gap))
    if not gap.excludes_zero:
        return Markup(
            "{}, and without it {}. The difference, <strong>{}</strong>, may be chance: its interval includes 0, "
            "so no effect on accuracy is shown."
        ).format(reached, percent_interval(theirs), points(gap))
    side = "over" if gap.mean > 0 else "against"
    return Markup("{}, <strong>{}</strong> {} the same network without it.").format(
        reached, points(gap), side
    )


def _survivors(main: Arm, base: Arm) -> Markup:
    parts = []
    for arm in (main, base):
        test = arm.summary.test_accuracy
        what = f"{percent_interval(test)} test accuracy" if test else "no recorded test accuracy"
        if arm.fallen:
            parts.append(
                f"{arm.manner}, training diverged in {arm.fallen} of {seeds(len(arm.best))} at the best rate; "
                f"in the {len(arm.finished)} that finished the network reached {what}."
            )
        else:
            parts.append(f"{arm.manner} the network reached {what} ({seeds(test.n if test else 0)}).")
    parts.sort(key=lambda part: "diverged" not in part)
    return Markup("{} Seeds that survive are no fair sample, so no advantage is claimed.").format(
        " ".join(parts)
    )


def _no_comparison(view: View) -> str:
    waiting = view.baseline is None and "none" in (view.settings.get("norms") or [])
    if waiting or not view.summary.complete:
        return "There is nothing to compare it with yet: no run of the other arms has finished."
    if view.baseline is None:
        return "There is no arm without normalization to compare it with; --norms none,batch adds one."
    return "There is no arm with normalization to compare it with; --norms none,batch adds one."


def _none_left(arm: Arm) -> Markup:
    lost, total = arm.summary.diverged, arm.summary.runs
    if lost == total:
        every = "the only run" if total == 1 else f"every one of {total} runs"
        return Markup("{}, {} diverged, so there is no test accuracy.").format(arm.manner, every)
    return Markup("{}, no test accuracy was recorded at the best rate.").format(arm.manner)


def _speed(main: Arm, base: Arm) -> str:
    reach, other = main.summary.reach, base.summary.reach
    if reach is None or other is None or reach.compared == 0:
        return ""
    goal = "the validation accuracy that the network without ended with"
    if not reach.complete:
        if reach.reached == 0:
            return f"It did not get to {goal} in any of {seeds(reach.compared)}."
        mean = _counted(epochs(reach.epochs))
        return f"It got to {goal} in {reach.reached} of {seeds(reach.compared)} ({mean} on average there)."
    gap = reach.epochs_difference
    if gap is None or reach.epochs is None or other.epochs is None:
        return ""
    took = epochs(Interval(reach.epochs.mean, None, None, 1))
    instead = epochs(Interval(other.epochs.mean, None, None, 1))
    if main.summary.survivors:
        return (
            f"In the {seeds(gap.n)} that finished it got to {goal} in {_counted(took)}, the other in {instead}; "
            "no difference in speed is claimed."
        )
    if gap.excludes_zero:
        return (
            f"It got to {goal} in {_counted(took)} instead of {instead}: "
            f"{_counted(epochs(gap, sign=True))}{_time(reach.seconds_difference)}."
        )
    if gap.low is None:
        count_of = "one seed" if gap.n == 1 else seeds(gap.n)
        return (
            f"It got to {goal} in {_counted(took)}, the network without in {instead} "
            f"({count_of}: too few for an interval)."
        )
    return (
        f"It got to {goal} in {_counted(took)}, the other in {instead}: {epochs(gap, sign=True)} epochs, "
        "an interval that includes 0, so no difference in speed is shown."
    )


def _counted(text: str) -> str:
    return f"{text} epoch{'' if text.lstrip('+-') == '1' else 's'}"


def _time(gap: Interval | None) -> str:
    if gap is None:
        return ""
    hint = "" if gap.excludes_zero else ", which includes 0"
    return f", {seconds_difference(gap)} of training{hint}"


def _others(view: View, main: Arm) -> str:
    arms = [arm for arm in view.comparable if arm is not main]
    if not arms:
        return ""
    above = supported(arms, lambda arm: arm.summary.accuracy_difference, +1)
    below = supported(arms, lambda arm: arm.summary.accuracy_difference, -1)
    parts = []
    if above:
        parts.append(f"above that of the network without for {listed([arm.phrase for arm in above])}")
    if below:
        parts.append(f"below it for {listed([arm.phrase for arm in below])}")
    biased = [arm for arm in arms if arm.summary.survivors]
    rest = len(arms) - len(above) - len(below) - len(biased)
    if rest:
        whom = "the other" if rest == len(arms) == 1 else f"{rest} of the {len(arms)} other arms"
        parts.append(
            f"not told apart from it for {whom}"
            if parts
            else f"not told apart from that of the network without for {whom}"
        )
    if biased:
        whom = listed([arm.phrase for arm in biased]) if len(biased) <= 3 else f"{len(biased)} arms"
        parts.append(f"not judged for {whom}, where seeds diverged")
    hint = (
        f" With {len(arms) + 1} comparisons, one in 20 intervals misses the truth by chance."
        if len(arms) > 1
        else ""
    )
    return f"Test accuracy is {listed(parts)}.{hint}"


def _tuning(view: View, main: Arm | None, base: Arm | None) -> str:
    arms = [
        arm for arm in (main, base) if arm is not None and arm.summary.best_lr is not None and not arm.lost
    ]
    if not arms:
        return ""
    fixed = [arm for arm in arms if len(arm.summary.rates) == 1]
    if fixed:
        whom = listed([arm.phrase for arm in fixed])
        return f"Only one learning rate ran with {whom} ({rate(fixed[0].summary.best_lr)}): it was not tuned."
    rates = [rate(arm.summary.best_lr) for arm in arms]
    if len(arms) == 1:
        return f"The learning rate with {arms[0].phrase} was tuned on the validation split: {rates[0]}."
    if len(view.arms) > 2:
        return (
            "Every arm had its learning rate tuned on the validation split: "
            f"{rates[0]} with {arms[0].phrase}, {rates[1]} without normalization, the others' in the table."
        )
    which = f"{rates[0]} for both" if rates[0] == rates[1] else f"{rates[0]} with it, {rates[1]} without"
    return f"Both had their learning rate tuned on the validation split: {which}."


def _warnings(view: View) -> list[str]:
    found: list[str] = []
    ends: list[str] = []
    summary = view.summary
    if not summary.complete:
        found.append(
            f"Incomplete: {summary.finished} of {summary.planned} planned runs have finished. "
            "The same command does the rest; what stands here may change."
        )
    for arm in view.arms:
        best, edge = arm.summary.best, arm.summary.at_edge
        if best is not None and 0 < best.diverged < best.runs:
            found.append(
                f"{best.diverged} of {best.runs} runs with {arm.phrase} at its best rate diverged; "
                "they are not in its means, which therefore flatter it."
            )
        if edge and arm.summary.complete and not arm.lost:
            ends.append(
                f"{arm.phrase} ({rate(arm.summary.best_lr)}, the {'lowest' if edge == 'low' else 'highest'} run)"
            )
    if ends:
        who = listed(ends) if len(ends) <= 3 else f"{len(ends)} of {len(view.arms)} arms, marked in the table"
        found.append(
            f"The best rate lies at the end of the grid, so that a better one may lie beyond it: {who}."
        )
    base = view.baseline
    test = base.summary.test_accuracy if base else None
    # A tenth of the way to perfect: a multiple of chance would lie above 100% where one class is frequent.
    if view.chance and test and test.mean < view.chance + 0.1 * (1 - view.chance) and base:
        found.append(
            f"The network without normalization stayed near chance ({percent(test.mean)}; chance is "
            f"{view.chance_note}): it hardly trained, at any rate that was run."
        )
    return found


def _limits(view: View) -> str:
    settings = view.settings
    data = (view.records.data or {}).get("name") or settings.get("data") or "one data set"
    model = settings.get("model") or "one network"
    length = settings.get("epochs")
    span = f", {count(length)} epochs" if isinstance(length, int) else ""
    return (
        f"One data set ({data}) and one network ({model}{span}): this does not show what happens on yours. The "
        "intervals cover the seeds, not the choice of data, network or training recipe."
    )


def _ends(interval: Interval) -> str:
    text = percent_interval(interval)
    return text[text.index(" [") :] if " [" in text else ""


def arms_table(view: View) -> Table:
    """Return all arms in numbers, as the terminal shows them."""
    rows: list[list[str | Cell]] = []
    for arm in view.arms:
        mine, reach = arm.summary, arm.summary.reach
        wins = view.summary.winner == mine.key
        reached = "-" if reach is None else f"{reach.reached} of {reach.compared}"
        lost = f"{mine.diverged} of {mine.runs}"
        n = len(arm.best)
        gap = reach.epochs_difference if reach else None
        rows.append(
            [arm.label, _judged_at(arm),
             Cell(percent_interval(mine.test_accuracy) + few(mine.test_accuracy, n), strong=wins),
             points(mine.accuracy_difference) + few(mine.accuracy_difference, n),
             epochs(reach.epochs if reach else None), epochs(gap, sign=True) + few(gap, n),
             duration(reach.seconds.mean if reach and reach.seconds else None), reached, lost]
        )  # fmt: skip
    head = ["arm", "best rate", "test accuracy [95%]", "difference to none [95%]", "epochs to none's accuracy",
            "difference [95%]", "seconds to it", "seeds that got there", "diverged (all rates)"]  # fmt: skip
    return Table("All arms, each at its own best learning rate", head, rows)


def _judged_at(arm: Arm) -> str:
    if arm.lost:
        return "-"
    notes = ["edge"] if arm.summary.at_edge else []
    notes += [] if arm.summary.complete else ["unfinished"]
    return rate(arm.summary.best_lr) + (f" ({', '.join(notes)})" if notes else "")
