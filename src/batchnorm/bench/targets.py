"""What the kernels are meant to reach, and whether the records say that they do."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from batchnorm.bench.harness import geometric_mean
from batchnorm.bench.results import Results

__all__ = ["BEYOND", "INSIDE", "TARGETS", "Target", "Verdict", "verdicts"]

Line = dict[str, Any]
# Tensors of a pass, as a part of the last cache: between the two, both memory and arithmetic show.
INSIDE, BEYOND = 0.5, 2.0


@dataclass(frozen=True)
class Verdict:
    """A target's measured value; `met` is None where nothing was measured.

    `copies_allow` is what the value would be if ours took no longer than the copies that must be made: for geometric
    means of torch's time over ours.
    """

    target: "Target"
    value: float | None
    met: bool | None
    count: int = 0
    failing: int = 0
    where: str | None = None
    copies_allow: float | None = None

    @property
    def short_by(self) -> float | None:
        """How much of the target is missing, as a fraction; 0 where it is met."""
        if self.value is None:
            return None
        if self.met:
            return 0.0
        if self.target.at_most is not None:
            return self.value / self.target.at_most - 1
        assert self.target.at_least is not None
        return 1 - self.value / self.target.at_least


@dataclass(frozen=True)
class Target:
    """A bound on the geometric mean, or shape by shape on the worst, of one ratio to ours over some records.

    Args:
        text: what it says.
        ratio: the name of the ratio in the records: its time over ours; `copy` is the time of all copies of the bound.
        inverse: ours over its time.
        where: the fields that a record must have; a tuple lists what they may be.
        at_least: the bound from below.
        at_most: the bound from above, where there is none from below.
        noise: what a measurement may miss `at_least` by on account of noise.
        each: every record must reach it, rather than their geometric mean.
        place: "inside" or "beyond" the caches, or None for both.
        kind: "case", or "step" of a network.
    """

    text: str
    ratio: str = "torch"
    inverse: bool = False
    where: Mapping[str, Any] = field(default_factory=dict)
    at_least: float | None = None
    at_most: float | None = None
    noise: float = 0.0
    each: bool = False
    place: str | None = None
    kind: str = "case"

    def verdict(self, results: Results) -> Verdict:
        """Judge the records."""
        cache = results.machine.get("cache_bytes")
        lines = results.cases if self.kind == "case" else results.steps
        found = [(value, f"{line['case']}, {line['phase']}") for line, value in self._values(lines, cache)]
        if not found:
            return Verdict(self, None, None)
        failing = [item for item in found if not self._reached(item[0])]
        if self.each:
            worst = (min if self.at_most is None else max)(found, key=lambda item: item[0])
            return Verdict(self, worst[0], not failing, len(found), len(failing), worst[1])
        mean = geometric_mean(value for value, _ in found)
        assert mean is not None
        allowed = [value / line["ratios"]["copy"]["median"] for line, value in self._values(lines, cache)
                   if self.ratio == "torch" and line["ratios"].get("copy")]  # fmt: skip
        return Verdict(
            self, mean, self._reached(mean), len(found), len(failing), copies_allow=geometric_mean(allowed)
        )

    def _values(self, lines: Iterable[Line], cache: int | None) -> Iterable[tuple[Line, float]]:
        for line in lines:
            if any(not _fits(line.get(key), wanted) for key, wanted in self.where.items()):
                continue
            if self.place is not None and not _PLACES[self.place](line["working_set"], cache):
                continue
            found = line["ratios"].get(self.ratio)
            if found is not None and found["median"] is not None:
                yield line, 1 / found["median"] if self.inverse else found["median"]

    def _reached(self, value: float) -> bool:
        if self.at_most is not None:
            return value <= self.at_most
        assert self.at_least is not None
        return value >= self.at_least - self.noise


def _fits(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, tuple) else value == wanted


_PLACES: dict[str, Callable[[int, int | None], bool]] = {
    "inside": lambda size, cache: cache is not None and size <= INSIDE * cache,
    "beyond": lambda size, cache: cache is not None and size >= BEYOND * cache,
}

_PLAIN = {"layout": "contiguous", "dtype": "float32"}
_STEP = {"phase": "forward_backward"}
TARGETS = (
    Target("training, BN+act, NCHW float32", where=_PLAIN | _STEP | {"group": "bn+act"}, at_least=4),
    Target("training, BN+ReLU, NCHW float32", where=_PLAIN | _STEP | {"variant": "bn+relu"}, at_least=4),
    Target("training, BN alone, NCHW float32", where=_PLAIN | _STEP | {"group": "bn"}, at_least=3),
    Target("evaluation, BN+act, NCHW float32", where=_PLAIN | {"phase": "evaluation", "group": "bn+act"},
           at_least=2),
    Target("evaluation, BN alone, NCHW float32", where=_PLAIN | {"phase": "evaluation", "group": "bn"}, at_least=2),
    Target("evaluation in the caches, copy / ours, each", "copy",
           where={"phase": "evaluation"}, at_least=0.8, each=True, place="inside"),
    Target("every shape and pass", at_least=1, noise=0.05, each=True),
    Target("training, BN+act, channels_last float32",
           where=_STEP | {"layout": "channels_last", "dtype": "float32", "group": "bn+act"}, at_least=2.5),
    Target("training, BN+act, NCHW bfloat16",
           where=_STEP | {"layout": "contiguous", "dtype": "bfloat16", "group": "bn+act"}, at_least=3),
    Target("ours eager / ours compiled, each", "batchnorm_compiled", True,
           where={"phase": ("forward_backward", "evaluation")}, at_least=1, noise=0.05, each=True),
    Target("beyond the caches, NCHW, copies, each", "copy", True,
           where={"layout": "contiguous"}, at_most=1.6, each=True, place="beyond"),
    Target("beyond the caches, channels_last, copies, each", "copy", True,
           where={"layout": "channels_last"}, at_most=2.2, each=True, place="beyond"),
    Target("step of MobileNetV2, NCHW float32", where=_PLAIN | {"network": "MobileNetV2"}, at_least=1.25,
           kind="step"),
    Target("step of ResNet-18, NCHW float32", where=_PLAIN | {"network": "ResNet-18"}, at_least=1.06,
           kind="step"),
)  # fmt: skip


def verdicts(results: Results) -> list[Verdict]:
    """Judge every target by the records of one file."""
    return [target.verdict(results) for target in TARGETS]
