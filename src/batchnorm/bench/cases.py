"""What is measured: distinct combinations of shape, layout, dtype and what follows the norm; presets of them."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from batchnorm.bench.shapes import NETWORKS, Site, sites

__all__ = ["DTYPES", "LAYOUTS", "PHASES", "PRESETS", "Case", "copies", "distinct", "preset"]

LAYOUTS = ("contiguous", "channels_last")
DTYPES = {"float32": 4, "bfloat16": 2}  # bytes a value
PHASES = ("forward", "forward_backward", "evaluation")


@dataclass(frozen=True)
class Case:
    """One tensor and what is done with it; `networks` have it, and `compiled` says that torch.compile runs too."""

    shape: tuple[int, ...]
    layout: str
    dtype: str
    act: str | None
    residual: bool
    networks: tuple[str, ...] = ()
    compiled: bool = False

    @property
    def group(self) -> str:
        """`bn`, `bn+act`, `bn+add` or `bn+add+act`: the name of the activation left out."""
        return "bn" + "+add" * self.residual + ("+act" if self.act else "")

    @property
    def variant(self) -> str:
        """The same with the activation's name."""
        return "bn" + "+add" * self.residual + (f"+{self.act}" if self.act else "")

    @property
    def bytes(self) -> int:
        """Of one tensor."""
        return math.prod(self.shape) * DTYPES[self.dtype]

    @property
    def key(self) -> str:
        """Unique among the cases of a file."""
        size = "x".join(map(str, self.shape))
        return f"{size} {self.layout} {self.dtype} {self.variant}"

    def record(self) -> dict[str, Any]:
        """The fields for a results file."""
        return asdict(self) | {"group": self.group, "variant": self.variant, "bytes": self.bytes}


def copies(act: str | None, residual: bool, phase: str) -> float:
    """The tensors that must move, in copies of one read and one write each.

    Forward reads x and the residual and writes y. Backward reads grad_output and x and writes the gradient of x; with
    a residual behind an activation it also reads the output or the residual, and writes the residual's gradient, which
    without an activation is grad_output itself.

    Example:
        >>> copies("relu", False, "forward_backward"), copies("relu", True, "forward_backward")
        (2.5, 4.0)
    """
    forward = 2 + residual
    backward = 3 + (2 if residual and act else 0)
    return (forward + backward * (phase == "forward_backward")) / 2


def distinct(found: Iterable[Site]) -> list[tuple[tuple[int, ...], str | None, bool, tuple[str, ...]]]:
    """(shape, act, residual, networks) without repetition; every shape is there with nothing after the norm too."""
    networks: dict[tuple[tuple[int, ...], str | None, bool], dict[str, None]] = {}
    for site in found:
        for key in ((site.shape, None, False), (site.shape, site.act, site.residual)):
            networks.setdefault(key, {})[site.network] = None
    return [(*key, tuple(names)) for key, names in networks.items()]


# One or two batch norms of each network, from inside the caches to far beyond them.
_QUICK = (
    ("ResNet-18", (16, 64, 112, 112)),
    ("ResNet-18", (16, 128, 28, 28)),
    ("ResNet-50", (16, 512, 7, 7)),
    ("MobileNetV2", (16, 144, 56, 56)),
    ("MobileNetV2", (16, 960, 7, 7)),
    ("EfficientNet-B0", (16, 240, 28, 28)),
    ("LeNet", (64, 6, 28, 28)),
    ("tabular", (256, 84)),
    ("tabular", (8192, 64)),
    ("small", (64, 16, 8, 8)),
)
# Compiling takes seconds a case, so it is done for one shape a network.
_COMPILED = {
    "quick": ((16, 128, 28, 28),),
    "full": (
        (16, 64, 112, 112),
        (16, 512, 28, 28),
        (16, 960, 7, 7),
        (16, 240, 28, 28),
        (64, 6, 28, 28),
        (256, 84),
    ),
}
PRESETS = tuple(_COMPILED)


def preset(
    name: str,
    layouts: Sequence[str] = LAYOUTS,
    dtypes: Sequence[str] = tuple(DTYPES),
    act_of: Callable[[str | None], str | None] = lambda own: own,
) -> list[Case]:
    """The cases of a preset: `quick` has some shapes, and bfloat16 in one layout only; `full` has everything.

    Args:
        name: one of `PRESETS`.
        layouts: of the shapes that have more than one.
        dtypes: of the input.
        act_of: what stands in place of a network's own activation.

    Example:
        >>> len(preset("quick")) < len(preset("full"))
        True
    """
    found = [site for network in NETWORKS for site in sites(network)]
    if name == "quick":
        found = [site for site in found if (site.network, site.shape) in _QUICK]
    found = [replace(site, act=act_of(site.act)) for site in found]
    cases = []
    for shape, act, residual, networks in distinct(found):
        for layout in layouts if len(shape) > 2 else LAYOUTS[:1]:
            for dtype in dtypes:
                if name == "quick" and (layout, dtype) == ("channels_last", "bfloat16"):
                    continue
                compiled = (
                    shape in _COMPILED[name] and dtype == "float32" and act is not None and not residual
                ) and (name == "full" or layout == "contiguous")
                cases.append(Case(shape, layout, dtype, act, residual, networks, compiled))
    return cases
