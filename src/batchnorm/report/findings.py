"""Titles that say what was found: generated, and only as strong as the paired intervals allow."""

from collections.abc import Callable, Sequence

from batchnorm.records.intervals import Interval
from batchnorm.records.wording import duration, epochs, number, plain_interval
from batchnorm.report.phrases import listed
from batchnorm.report.view import Arm, View

__all__ = ["best_of", "cost_finding", "loss_finding", "sentence", "speed_finding", "supported"]


def supported(arms: Sequence[Arm], difference: Callable[[Arm], Interval | None], sign: int) -> list[Arm]:
    """Return the arms whose difference to `none` lies on one side of zero with its whole interval.

    Arms whose numbers rest on the seeds that survived are left out, whatever their interval.
    """
    found = []
    for arm in arms:
        interval = None if arm.summary.survivors else difference(arm)
        if interval is not None and interval.excludes_zero and interval.mean * sign > 0:
            found.append(arm)
    return found


def best_of(arms: Sequence[Arm], difference: Callable[[Arm], Interval | None], sign: int) -> Arm:
    """Return the arm with the largest difference in the direction of `sign`."""

    def size(arm: Arm) -> float:
        interval = difference(arm)
        return 0.0 if interval is None else sign * interval.mean

    return max(arms, key=size)


def sentence(text: str) -> str:
    """Return `text` with a capital letter at its start."""
    return text[:1].upper() + text[1:]


def speed_finding(view: View) -> str:
    """Say who reaches the accuracy that `none` ended with sooner, if anyone does."""

    def difference(arm: Arm) -> Interval | None:
        return arm.summary.reach.epochs_difference if arm.summary.reach else None

    def by(arm: Arm) -> str:
        interval = difference(arm)
        size = abs(interval.mean) if interval else 0.0
        return f"{_plain(size)} epoch{'' if _plain(size) == '1' else 's'}"

    arms = view.comparable
    if view.baseline is None or not arms:
        return f"Accuracy over training with {listed([arm.phrase for arm in view.arms])}"
    sooner = supported(arms, difference, -1)
    later = supported(arms, difference, +1)
    if sooner:
        top = best_of(sooner, difference, -1)
        if len(arms) == 1:
            return sentence(
                f"{top.phrase} reaches the final accuracy of the network without it {by(top)} sooner"
            )
        return (
            f"{len(sooner)} of {len(arms)} arms are shown to reach the final accuracy of the network without "
            f"normalization sooner, by up to {by(top)}"
        )
    if len(arms) == 1 and later:
        return sentence(
            f"{later[0].phrase} reaches the final accuracy of the network without it {by(later[0])} later"
        )
    if len(arms) == 1:
        return _no_speed(arms[0])
    return f"None of {len(arms)} arms is shown to reach the final accuracy of the network without normalization sooner"


def _no_speed(arm: Arm) -> str:
    reach = arm.summary.reach
    if reach is None or reach.compared == 0:
        return sentence(f"{arm.phrase} and no normalization have no seeds in common that kept a finite loss")
    if not reach.complete:
        return sentence(
            f"{arm.phrase} reaches the final accuracy of the network without it in "
            f"{reach.reached} of {reach.compared} seeds"
        )
    return (
        f"No difference shown in how soon {arm.phrase} reaches the final accuracy of the network without it"
    )


def loss_finding(view: View) -> str:
    """Say who ends with a lower validation loss than `none`, if anyone does."""

    def difference(arm: Arm) -> Interval | None:
        return arm.summary.val_loss_difference

    arms = view.comparable
    if view.baseline is None or not arms:
        return f"Loss over training with {listed([arm.phrase for arm in view.arms])}"
    lower = supported(arms, difference, -1)
    higher = supported(arms, difference, +1)
    if len(arms) == 1 and (lower or higher):
        arm = (lower or higher)[0]
        mine, base = arm.summary.best, view.baseline.summary.best
        numbers = [number(each.val_loss.mean) if each and each.val_loss else "-" for each in (mine, base)]
        word = "lower" if lower else "higher"
        gap = plain_interval(difference(arm), sign=True)
        return sentence(
            f"{arm.phrase} ends with a {word} validation loss: {numbers[0]} instead of {numbers[1]}, {gap}"
        )
    if len(arms) == 1:
        return f"No difference shown in the validation loss that {arms[0].phrase} ends with"
    if lower:
        top = best_of(lower, difference, -1)
        count = f"{len(lower)} of {len(arms)} arms are shown to end with a lower validation loss than no normalization"
        return f"{count}, {top.phrase} with the largest gap"
    return f"None of {len(arms)} arms is shown to end with a lower validation loss than no normalization"


def cost_finding(view: View) -> str:
    """Say what a step costs with the arms, where the seeds agree that it differs."""

    def difference(arm: Arm) -> Interval | None:
        return arm.summary.step_difference

    arms = view.comparable
    if view.baseline is None or not arms:
        return "What a training step costs"
    slower = supported(arms, difference, +1)
    faster = supported(arms, difference, -1)
    if slower:
        top = best_of(slower, difference, +1)
        ratio = _ratio(top, view.baseline)
        share = "" if ratio is None else f", {number(ratio)} times as long"
        more = (
            f"{len(slower)} of {len(arms)} arms are shown to take longer for a step; "
            if len(arms) > 1
            else ""
        )
        return sentence(f"{more}a step with {top.phrase} takes {_size(difference(top))} more{share}")
    if faster and len(arms) == 1:
        return sentence(f"a step with {faster[0].phrase} takes {_size(difference(faster[0]))} less")
    return "No arm is shown to take longer for a step than the network without"


def _size(interval: Interval | None) -> str:
    return duration(abs(interval.mean)) if interval else ""


def _ratio(arm: Arm, base: Arm) -> float | None:
    mine, other = arm.summary.seconds_per_step, base.summary.seconds_per_step
    return mine / other if mine and other else None


def _plain(value: float) -> str:
    return epochs(Interval(value, None, None, 1))
