"""What decides the numbers of a comparison, in one frozen object."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from batchnorm import __version__
from batchnorm.errors import UsageError
from batchnorm.lab import arms
from batchnorm.lab.settings import (
    fraction,
    further_settings,
    known,
    list_of,
    names,
    once,
    positive,
    whole,
)

__all__ = ["DEFAULT_LRS", "DEVICES", "OPTIMIZERS", "PLACEMENTS", "PRECISIONS", "CompareConfig"]

PLACEMENTS = ("before", "after")
MOST_EPOCHS = 1_000_000
MOST_SEEDS = 10_000
MOST_DEVICES = 64
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("32-true", "64-true", "bf16-true", "16-true", "bf16-mixed", "16-mixed")
# Wide enough that on the digits neither arm's best rate lies at an edge: without norm it is near
# 0.1 for SGD, with batch norm near 0.2, and both fail at 1.
DEFAULT_LRS = {
    "sgd": (0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    "adam": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03),
    "adamw": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03),
}
OPTIMIZERS = tuple(DEFAULT_LRS)


@dataclass(frozen=True)
class CompareConfig:
    """The settings of a comparison; a run is a function of them, its arm, placement, rate and seed.

    Use `CompareConfig.of`, which reads values as the command line gives them and refuses bad ones.

    Example:
        >>> CompareConfig.of(norms="none,batch", lrs="0.1,0.5", epochs="3").lrs
        (0.1, 0.5)
    """

    data: str
    model: str
    norms: tuple[str, ...]
    placements: tuple[str, ...]
    lrs: tuple[float, ...]
    extend: bool
    batch_size: int
    epochs: int
    seeds: int
    optimizer: str
    dropout: float
    device: str
    precision: str
    further: Mapping[str, Any] = field(default_factory=dict)
    placement_given: bool = field(default=True, compare=False)
    devices: int = 1

    @classmethod
    def of(
        cls,
        *,
        data: str = "digits",
        model: str = "lenet",
        norms: str | Iterable[str] = ("none", "batch"),
        placement: str | Iterable[str] | None = None,
        lrs: str | Iterable[float] | None = None,
        batch_size: int | str = 32,
        epochs: int | str = 10,
        seeds: int | str = 5,
        optimizer: str = "sgd",
        dropout: float | str = 0.0,
        device: str = "auto",
        precision: str = "32-true",
        further: Iterable[str] | Mapping[str, Any] = (),
        devices: int | str = 1,
    ) -> Self:
        """Read and check the settings; texts are read as the command line's options of the same name.

        Args:
            data: a known data set, an `.npz` file, or `file.py:name`.
            model: a known model, or `file.py:factory`.
            norms: the arms, in any order; they are kept in the order in which all pages show them.
            placement: `before`, `after` or both; None means `after`, as in the network of seed 002.
            lrs: the learning rates every arm is tried at. None takes the optimizer's own grid, which is
                extended once for an arm whose best rate lies at its edge; rates given here are not.
            batch_size: samples a step, at least 2.
            epochs: passes over the training samples, at least 1.
            seeds: number of repetitions, at least 1; they are numbered from 0.
            optimizer: `sgd`, `adam` or `adamw`.
            dropout: probability in [0, 1).
            device: `auto`, `cpu`, `cuda` or `mps`.
            precision: one of Fabric's names, such as `32-true` or `bf16-mixed`.
            devices: processes that each run is split over, on as many devices of this machine.
            further: `key=value` texts or a mapping; see `batchnorm.lab.settings.FURTHER`.

        Raises:
            UsageError: a value is unknown or out of range; the message is one line that quotes it.
        """
        optimizer = known("--optimizer", optimizer, OPTIMIZERS)
        device = _device(device)
        count = _devices(devices, device)
        chosen = names("--norms", norms, arms.KNOWN)
        return cls(
            data=_text("--data", data),
            model=_text("--model", model),
            norms=tuple(arm for arm in arms.KNOWN if arm in chosen),
            placements=_placements(placement),
            lrs=_lrs(lrs, optimizer),
            extend=lrs is None,
            batch_size=_batch_size(batch_size, count),
            epochs=whole("--epochs", epochs, least=1, most=MOST_EPOCHS),
            seeds=whole("--seeds", seeds, least=1, most=MOST_SEEDS),
            optimizer=optimizer,
            dropout=fraction("--dropout", dropout),
            device=device,
            precision=_precision(precision, device),
            further=further_settings(further, optimizer),
            placement_given=placement is not None,
            devices=count,
        )

    @property
    def model_options(self) -> dict[str, Any]:
        """What `--set model.NAME=VALUE` hands to the model's builder."""
        return {
            key.removeprefix("model."): value
            for key, value in self.further.items()
            if key.startswith("model.")
        }

    def settings(self, data_digest: str, model_digest: str | None) -> dict[str, Any]:
        """The `settings` of the record format: a results folder is continued only where they agree."""
        # Only where there are several, so that the folders of earlier versions are continued.
        several = {"devices": self.devices} if self.devices > 1 else {}
        return {
            "data": self.data,
            "data_digest": data_digest,
            "model": self.model,
            "model_digest": model_digest,
            "norms": list(self.norms),
            "placements": list(self.placements),
            "lrs": list(self.lrs),
            "extend": self.extend,
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "seeds": self.seeds,
            "optimizer": self.optimizer,
            "dropout": self.dropout,
            "device": self.device,
            "precision": self.precision,
            **several,
            "set": dict(self.further),
            "batchnorm": __version__,
            "torch": str(torch.__version__),
        }

    def default_folder(self, data_digest: str, model_digest: str | None) -> Path:
        """A folder of their own for these settings, so that the same command finds its results again."""
        text = json.dumps(self.settings(data_digest, model_digest), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return Path("batchnorm-runs") / f"{_slug(self.data)}-{_slug(self.model)}-{digest}"


def _text(option: str, value: Any) -> str:
    text = str(value).strip()
    if not text:
        raise UsageError(f"{option} {value!r} is empty")
    return text


def _placements(value: Any) -> tuple[str, ...]:
    if value is None:
        return ("after",)
    chosen = names("--placement", value, PLACEMENTS)
    return tuple(placement for placement in PLACEMENTS if placement in chosen)


def _lrs(value: Any, optimizer: str) -> tuple[float, ...]:
    if value is None:
        return DEFAULT_LRS[optimizer]
    lrs = [positive("--lrs", entry) for entry in list_of("--lrs", value)]
    once("--lrs", value, lrs)
    return tuple(sorted(lrs))


def _device(value: str) -> str:
    known("--device", value, DEVICES)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if value == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[value]:
        usable = ", ".join(name for name, usable in there.items() if usable)
        raise UsageError(f"--device {value!r} is not available on this machine; choose from auto, {usable}")
    return value


def _devices(value: Any, device: str) -> int:
    count = whole("--devices", value, least=1, most=MOST_DEVICES)
    if count == 1:
        return count
    if device == "mps":
        raise UsageError(f"--devices {value!r}: there is one mps device; leave --devices out")
    if device == "cuda" and count > torch.cuda.device_count():
        raise UsageError(f"--devices {value!r}: this machine has {torch.cuda.device_count()} cuda devices")
    return count


def _batch_size(value: Any, devices: int) -> int:
    size = whole("--batch-size", value, least=2)
    if size < 2 * devices:
        raise UsageError(
            f"--batch-size {value!r} is split over --devices {devices} and must be at least {2 * devices}: "
            "two samples each"
        )
    return size


def _precision(value: str, device: str) -> str:
    known("--precision", value, PRECISIONS)
    if device == "cpu" and value.startswith("16-"):
        raise UsageError(f"--precision {value!r} needs a GPU; on the cpu choose 'bf16-mixed' or '32-true'")
    if device == "mps" and value == "64-true":
        raise UsageError(f"--precision {value!r} is not available on the mps device; choose '32-true'")
    return value


def _slug(target: str) -> str:
    """`path/to/my set.npz` is `my-set`, `net.py:build` is `net-build`."""
    path, colon, name = target.rpartition(":") if ":" in target else (target, "", "")
    text = Path(path).stem + (f"-{name}" if colon else "")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:40] or "x"
