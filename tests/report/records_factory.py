"""Small results folders for tests: seeded, written through `records.Store` as the driver writes them."""

import base64
import itertools
import random
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchnorm.records import Records, Store, read

Arm = tuple[str, str | None]


@dataclass
class Plan:
    """What the made-up comparison looks like; the defaults are a small `compare` of two arms on images."""

    arms: Sequence[Arm] = (("none", None), ("batch", "after"))
    lrs: Sequence[float] = (0.01, 0.1, 1.0)
    seeds: int = 3
    epochs: int = 4
    classes: Sequence[str] = tuple("0123456789")
    samples: int = 24
    sites: Sequence[str] = ("pool1", "pool2")
    images: bool = True
    # arm -> the accuracy it ends with at its best rate, and how fast it gets there
    levels: dict[str, float] = field(default_factory=lambda: {"none": 0.93, "batch": 0.97})
    speeds: dict[str, float] = field(default_factory=lambda: {"none": 0.6, "batch": 2.0})
    noise: float = 0.004
    # (arm, lr, seed) of the runs that diverge; None stands for all
    diverge: Iterable[tuple[str, float | None, int | None]] = ()
    # how many of the planned runs have finished; None stands for all
    finished: int | None = None
    command: str = "batchnorm compare"
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def diverges(self, arm: str, lr: float, seed: int) -> bool:
        return any(a == arm and b in (None, lr) and c in (None, seed) for a, b, c in self.diverge)


def write_records(folder: Path, plan: Plan | None = None) -> Path:
    """Write the results of `plan` into `folder` and return it."""
    plan = plan or Plan()
    settings = {
        "data": "digits", "data_digest": "d" * 64, "model": "lenet", "model_digest": None,
        "norms": list(dict.fromkeys(arm for arm, _ in plan.arms)),
        "placements": list(dict.fromkeys(place for _, place in plan.arms if place)) or ["after"],
        "lrs": list(plan.lrs), "extend": True, "batch_size": 32, "epochs": plan.epochs, "seeds": plan.seeds,
        "optimizer": "sgd", "dropout": 0.0, "device": "cpu", "precision": "32-true", "set": {},
        "torch": "2.13.0",
    } | plan.settings  # fmt: skip
    config = {
        "kind": "config", "schema": 1, "settings": settings,
        "versions": {"batchnorm": "0.1.0", "python": "3.11.9", "torch": "2.13.0"},
        "device": "CPU with 2 threads", "command": plan.command, "commit": "0123abc",
        "started": "2026-11-20T19:00:00Z",
    }  # fmt: skip
    rng = random.Random(plan.seed)
    keys = [(arm, lr, seed) for arm in plan.arms for lr in plan.lrs for seed in range(plan.seeds)]
    with Store(folder, config) as store:
        store.append(_data_lines(plan, rng))
        for arm, lr, seed in keys[: plan.finished]:
            store.append(run_lines(plan, arm, lr, seed, rng))
    return folder


def records(folder: Path, plan: Plan | None = None) -> Records:
    """Write the results of `plan` and read them back."""
    return read(write_records(folder, plan))


def _data_lines(plan: Plan, rng: random.Random) -> list[dict[str, Any]]:
    shape = [1, 8, 8] if plan.images else [4]
    lines: list[dict[str, Any]] = [
        {"kind": "data", "name": "digits", "class_names": list(plan.classes), "input_shape": shape,
         "train": 1000, "validation": 300, "test": 400, "digest": "d" * 64}
    ]  # fmt: skip
    for index in range(plan.samples):
        label = index % len(plan.classes)
        lines.append(
            {"kind": "sample", "index": index, "label": label,
             "image": _png(label, rng) if plan.images else None,
             "features": None if plan.images else [rng.gauss(0, 1) for _ in range(4)]}
        )  # fmt: skip
    return lines


def run_lines(plan: Plan, arm: Arm, lr: float, seed: int, rng: random.Random) -> list[dict[str, Any]]:
    """Return the lines of one run, in the order in which they are written."""
    name, place = arm
    common = {
        "run": f"{name}-{place}-lr{lr:g}-s{seed}",
        "arm": name,
        "placement": place,
        "lr": lr,
        "seed": seed,
    }
    broken = plan.diverges(name, lr, seed)
    middle = plan.lrs[len(plan.lrs) // 2]
    level = plan.levels.get(name, 0.95) - (0.0 if lr == middle else 0.25) + rng.gauss(0, plan.noise)
    speed = plan.speeds.get(name, 1.0)
    lines: list[dict[str, Any]] = [
        {"kind": "run", **common, "parameters": 61706 + (44 if name == "batch" else 0),
         "sites": list(plan.sites), "initial_weights": f"{seed:064d}", "steps_per_epoch": 32,
         "activation": [f"{site}: {name}" for site in plan.sites]}
    ]  # fmt: skip
    lines += _activation_lines(plan, common, 0, rng)
    for epoch in range(1, plan.epochs + 1):
        stop = broken and epoch == 2
        accuracy = max(0.1, level * (1 - 0.9 * 2.718281828 ** (-speed * epoch)) + rng.gauss(0, plan.noise))
        loss = None if stop else 2.3 * (1 - accuracy) + 0.05
        lines.append(
            {"kind": "epoch", **common, "epoch": epoch, "step": 32 * epoch, "train_loss": loss,
             "train_accuracy": accuracy, "val_loss": loss,
             "val_accuracy": 0.1 if stop else min(accuracy, 1.0),
             "seconds": 0.13 * epoch * (1.2 if name != "none" else 1.0)}
        )  # fmt: skip
        lines += [] if stop else _activation_lines(plan, common, epoch, rng)
        if stop:
            break
    if not broken:
        lines.append(_prediction_line(plan, common, level, rng))
    confusion = [[0] * len(plan.classes) for _ in plan.classes]
    for place in range(400):
        rng.randrange(
            len(plan.classes)
        )  # drawn and dropped: the numbers of all later lines stay what they were
        label = place % len(plan.classes)
        predicted = label if rng.random() < level else rng.randrange(len(plan.classes))
        confusion[label][predicted] += 1
    lines.append(
        {"kind": "final", **common, "test_loss": None if broken else 2.3 * (1 - level) + 0.05,
         "test_accuracy": None if broken else min(level, 1.0), "diverged": broken,
         "diverged_at": 2 if broken else None, "confusion": None if broken else confusion,
         "train_seconds": 0.13 * plan.epochs, "seconds_per_step": 0.004 * (1.2 if name != "none" else 1.0)}
    )  # fmt: skip
    return lines


def _prediction_line(plan: Plan, common: dict[str, Any], level: float, rng: random.Random) -> dict[str, Any]:
    predicted, confidence = [], []
    for index in range(plan.samples):
        right = rng.random() < level
        predicted.append(index % len(plan.classes) if right else rng.randrange(len(plan.classes)))
        confidence.append(rng.uniform(0.6, 1.0) if right else rng.uniform(0.2, 0.7))
    return {"kind": "prediction", **common, "index": list(range(plan.samples)), "predicted": predicted,
            "confidence": confidence}  # fmt: skip


def _activation_lines(
    plan: Plan, common: dict[str, Any], epoch: int, rng: random.Random
) -> list[dict[str, Any]]:
    lines = []
    for depth, site in enumerate(plan.sites):
        for where in ("input", "output"):
            drift = 0.0 if common["arm"] == "batch" and where == "output" else 0.3 * epoch + 0.1 * depth
            values = sorted(rng.gauss(drift, 1.0) for _ in range(200))
            line = {
                "kind": "activation",
                **common,
                "epoch": epoch,
                "site": site,
                "where": where,
                "mean": drift,
            }
            line |= {"std": 1.0, "p15": values[30], "p50": values[100], "p85": values[170]}
            if epoch in (0, plan.epochs):
                edges = [values[0] + (values[-1] - values[0]) * i / 20 for i in range(21)]
                counts = [sum(low <= v < high for v in values) for low, high in itertools.pairwise(edges)]
                line["histogram"] = {"edges": edges, "counts": counts}
            lines.append(line)
    return lines


def _png(label: int, rng: random.Random) -> str:
    """A small grey picture of a ring or a stroke, so that labels can be told apart on a screenshot."""
    rows = []
    for y in range(8):
        row = bytearray()
        for x in range(8):
            lit = (x * (label % 3 + 1) + y * (label % 4 + 1)) % (label % 5 + 3) == 0
            row.append(min(255, (200 if lit else 20) + rng.randrange(40)))
        rows.append(b"\x00" + bytes(row))
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"".join(rows))) + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
