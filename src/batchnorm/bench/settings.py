"""What a run of the benchmark was asked for: text from the command line, checked once."""

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batchnorm.bench.cases import DTYPES, LAYOUTS, PRESETS, Case, distinct, preset
from batchnorm.bench.harness import Effort
from batchnorm.bench.shapes import NETWORKS, Site
from batchnorm.errors import UsageError

__all__ = ["ACTIVATIONS", "Settings"]

ACTIVATIONS = ("relu", "relu6", "leaky_relu", "silu", "gelu", "gelu_tanh", "hardswish", "elu")
_OWN = "own"  # the network's own activation
MOST_VALUES = 2**31
MOST_THREADS = 1024


@dataclass(frozen=True)
class Settings:
    """Everything that decides what is measured.

    Args:
        preset: of shapes; without effect where `shapes` are given.
        shapes: (N, C), (N, C, L) or (N, C, H, W).
        networks: only these.
        layouts: of images.
        dtypes: of the input.
        act: in place of the network's own; None measures the norm alone.
        threads: of torch, None for as many as it takes.
        seconds: a measurement, about.
        compiled: with torch.compile.
    """

    preset: str = "quick"
    shapes: tuple[tuple[int, ...], ...] = ()
    networks: tuple[str, ...] = ()
    layouts: tuple[str, ...] = LAYOUTS
    dtypes: tuple[str, ...] = tuple(DTYPES)
    act: str | None = _OWN
    threads: int | None = None
    seconds: float = 0.4
    compiled: bool = True

    @classmethod
    def of(
        cls,
        *,
        preset: str,
        shape: Sequence[str],
        network: str | None,
        layout: str | None,
        dtype: str | None,
        act: str | None,
        threads: str | None,
        seconds: str,
        compiled: bool,
    ) -> "Settings":
        """Check what was typed.

        Raises:
            UsageError: names the option, what came and what is accepted.
        """
        if preset not in PRESETS:
            raise UsageError(f"--preset {preset!r} is unknown; choose from {', '.join(PRESETS)}")
        if shape and network:
            raise UsageError(
                "--network chooses among the shapes of a preset, --shape brings its own: give one of them"
            )
        return cls(
            preset,
            tuple(_shape(text) for text in shape),
            () if network is None else _choice("--network", network, tuple(NETWORKS)),
            LAYOUTS if layout is None else _choice("--layout", layout, LAYOUTS),
            tuple(DTYPES) if dtype is None else _choice("--dtype", dtype, tuple(DTYPES)),
            _act(act),
            None if threads is None else _threads(threads),
            _seconds(seconds),
            compiled,
        )

    def cases(self) -> list[Case]:
        """What is to be measured, in order.

        Raises:
            UsageError: nothing is left.
        """
        cases = (
            self._own_shapes() if self.shapes else preset(self.preset, self.layouts, self.dtypes, self.act_of)
        )
        if self.networks:
            cases = [case for case in cases if set(case.networks) & set(self.networks)]
        if not cases:
            raise UsageError(
                f"nothing to measure: preset {self.preset} has no shape of {', '.join(self.networks)}"
            )
        return cases

    def act_of(self, own: str | None) -> str | None:
        """What stands in place of a network's activation."""
        return own if own is None or self.act == _OWN else self.act

    def effort(self) -> Effort:
        """How long to measure."""
        return Effort(budget=self.seconds)

    def record(self) -> dict[str, Any]:
        """The fields for a results file, as JSON gives them back."""
        fields = dataclasses.asdict(self)
        return {key: _listed(value) for key, value in fields.items()}

    def command(self) -> str:
        """The command that asks for these settings."""
        words = ["batchnorm", "bench"]
        words += [part for shape in self.shapes for part in ("--shape", ",".join(map(str, shape)))]
        words += [] if self.shapes else ["--preset", self.preset]
        for option, value, usual in (
            ("--network", self.networks, ()),
            ("--layout", self.layouts, LAYOUTS),
            ("--dtype", self.dtypes, tuple(DTYPES)),
        ):
            words += [] if value == usual else [option, ",".join(value)]
        words += [] if self.act == _OWN else ["--act", self.act or "none"]
        words += [] if self.threads is None else ["--threads", str(self.threads)]
        words += [] if self.seconds == type(self).seconds else ["--seconds", f"{self.seconds:g}"]
        words += [] if self.compiled else ["--no-compile"]
        return shlex.join(words)

    def _own_shapes(self) -> list[Case]:
        act = "relu" if self.act == _OWN else self.act
        found = [
            Site("own", shape, act, residual)
            for shape in self.shapes
            for residual in ((False, True) if act else (False,))
        ]
        return [
            Case(
                shape, layout, dtype, act, residual, networks, compiled=dtype == "float32" and act is not None
            )
            for shape, act, residual, networks in distinct(found)
            for layout in (self.layouts if len(shape) == 4 else LAYOUTS[:1])
            for dtype in self.dtypes
        ]


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--shape {text!r} is not whole numbers separated by commas, as in 16,64,56,56"
        ) from None
    if not 2 <= len(sizes) <= 4:
        raise UsageError(f"--shape {text!r} has {len(sizes)} dimensions; expected N,C or N,C,L or N,C,H,W")
    values = 1
    for size in sizes:
        values *= size
    if min(sizes) < 1 or values > MOST_VALUES:
        raise UsageError(f"--shape {text!r} needs sizes of at least 1 and at most {MOST_VALUES:,} values")
    if values == sizes[1]:
        raise UsageError(f"--shape {text!r} has one value a channel, which training cannot normalize")
    return sizes


def _choice(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in known:
            raise UsageError(f"{option} {name!r} is unknown; choose from {', '.join(known)}")
    return tuple(name for name in known if name in names)


def _act(text: str | None) -> str | None:
    if text is None or text == _OWN:
        return _OWN
    if text == "none":
        return None
    if text not in ACTIVATIONS:
        raise UsageError(f"--act {text!r} is unknown; choose from own, none, {', '.join(ACTIVATIONS)}")
    return text


def _threads(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_THREADS:
        raise UsageError(f"--threads {text!r} must be a whole number from 1 to {MOST_THREADS}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise UsageError(f"--seconds {text!r} is not a number") from None
    if not 0 < seconds <= 3600:
        raise UsageError(f"--seconds {text!r} must be above 0 and at most 3600")
    return seconds


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value
