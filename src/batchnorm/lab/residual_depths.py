"""Residual networks of several depths, on Gaussian input and in training: what claims 6 and 7 measure alike."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

from batchnorm.lab.experiment import Scale, Task
from batchnorm.records.charts import Axis, Chart, Curve, Panel
from batchnorm.records.selection import distinct, seed_values, select, values
from batchnorm.records.store import Line
from batchnorm.records.wording import seeds

__all__ = [
    "BLOCKS",
    "DEPTHS",
    "LEAST",
    "METHOD",
    "accuracies",
    "accuracy_chart",
    "best_rate",
    "failing",
    "measure_moments",
    "measure_training",
    "moment_tasks",
    "moments",
    "training_tasks",
]

BLOCKS, WIDTH, BATCH, DRAWS = 64, 512, 256, 12  # of the moments
DEPTHS, NARROW = (4, 16, 64, 128), 64  # of the training
LEAST = 0.9
RATES, BATCH_RATES = (0.003, 0.01, 0.03), (0.03, 0.1)
SHARES = (0.01, 0.03, 0.1)
EXPLODING = ("none", "alpha-one")


def _listed(rates: Sequence[float]) -> str:
    return f"{', '.join(map(str, rates[:-1]))} and {rates[-1]}"


# The norm, the join and where its alpha starts.
NETWORKS = {
    "none": ("none", "plain", 0.0),
    "batch": ("batch", "plain", 0.0),
    "skipinit": ("none", "skipinit", 0.0),
    "alpha-one": ("none", "skipinit", 1.0),
    "halved": ("none", "halved", 0.0),
    "rescale": ("none", "rescale", 0.0),
}
METHOD = (
    f"First weights: {BLOCKS} fully connected blocks F(x) = W relu(norm(x)) of width {WIDTH} on a Gaussian batch of "
    f"{BATCH}; each seed takes the geometric mean over {DRAWS} networks. Training: "
    f"{', '.join(map(str, DEPTHS[:-1]))} or {DEPTHS[-1]} such blocks of width {NARROW} between a linear layer and an "
    "output, SGD with "
    "momentum 0.9, batch 64, 100 steps quick and 300 full. Each arm has, at each depth, the best of its rates by "
    f"training accuracy: {_listed(BATCH_RATES)} with batch norm, {_listed(RATES)} without; where signals double with "
    f"each block {_listed(SHARES)} times 2^(-blocks / 2), as gradients grow by 2^(blocks / 2), and 0.01."
)


def moment_tasks(arms: Iterable[str], seed: int) -> list[Task]:
    """The tasks whose second moments are measured."""
    return [Task.of(arm, seed, part="moments", blocks=BLOCKS, width=WIDTH, draws=DRAWS) for arm in arms]


def training_tasks(arms: Iterable[str], seed: int, scale: Scale) -> list[Task]:
    """The trainings of each arm at every depth, with every rate that it may choose from."""
    return [
        Task.of(arm, seed, part="training", blocks=blocks, width=NARROW, lr=lr, steps=scale.pick(100, 300),
                data=scale.data)
        for blocks in DEPTHS
        for arm in arms
        for lr in _rates(arm, blocks)
    ]  # fmt: skip


def _rates(arm: str, blocks: int) -> Sequence[float]:
    if arm not in EXPLODING:
        return BATCH_RATES if arm == "batch" else RATES
    return [*(float(f"{share * 2 ** (-blocks / 2):.1e}") for share in SHARES), 0.01]


def measure_moments(task: Task) -> list[dict[str, Any]]:
    """The second moment of the skip path behind each block, and that of the branch over it.

    Geometric means over networks: the formulas are means over weights, from which one network is some per cent off.
    """
    import torch

    from batchnorm.lab.models import residual_stack
    from batchnorm.probes import moments_by_depth

    norm, kind, alpha = NETWORKS[task.arm]
    blocks = range(task["blocks"])
    paths = [f"blocks.{block}{part}" for part in ("", ".branch") for block in blocks]
    logs = torch.zeros(len(paths), dtype=torch.float64)
    for _ in range(task["draws"]):
        net = residual_stack(task["blocks"], norm, width=task["width"], kind=kind, alpha=alpha)
        seen = moments_by_depth(net, torch.randn(BATCH, task["width"]), paths)
        found = {each.path: each.output for each in seen if each.output is not None}
        logs += torch.stack([found[path].second_moment().mean() for path in paths]).log()
    skip, branch = (logs / task["draws"]).chunk(2)
    return [{"second": skip.exp().tolist(), "share": (branch - skip).exp().tolist()}]


def measure_training(task: Task) -> list[dict[str, Any]]:
    """Train one network; its accuracies are NaN where the loss or the outputs stopped being finite."""
    from batchnorm.lab.data import cached
    from batchnorm.lab.loop import evaluate, fit
    from batchnorm.lab.models import residual_stack
    from batchnorm.lab.splits import Split

    data = cached(task["data"])
    norm, kind, alpha = NETWORKS[task.arm]
    net = residual_stack(
        task["blocks"],
        norm,
        width=task["width"],
        kind=kind,
        alpha=alpha,
        inputs=prod(data.input_shape),
        num_classes=data.num_classes,
    )
    done = fit(
        net, data.train, lr=task["lr"], steps=task["steps"], batch_size=64, seed=task.seed, momentum=0.9
    )
    nothing = float("nan")
    if done.diverged:
        return [{"train": nothing, "test": nothing, "ran": len(done.losses)}]
    shown = Split(
        data.train.x[:2000], data.train.y[:2000]
    )  # larger data sets have more than is worth the time
    train, test = evaluate(net, shown), evaluate(net, data.test)
    whole = train.probabilities.isfinite().all()  # what is NaN would count as the first class
    return [
        {
            "train": train.accuracy if whole else nothing,
            "test": test.accuracy if whole else nothing,
            "ran": len(done.losses),
        }
    ]


def moments(records: Sequence[Line], arm: str, field: str = "second") -> list[list[float | None]]:
    """What was measured behind each block, a list a seed."""
    return [line[field] for line in select(records, part="moments", arm=arm)]


def best_rate(records: Sequence[Line], arm: str, blocks: int) -> float | None:
    """The rate with the highest mean training accuracy over seeds; a run that diverged counts as 0."""

    def score(lr: float) -> float:
        return sum(value or 0.0 for value in values(records, "train", arm=arm, blocks=blocks, lr=lr))

    rates = distinct(records, "lr", arm=arm, blocks=blocks, part="training")
    return max(rates, key=score) if rates else None


def accuracies(
    records: Sequence[Line], arm: str, blocks: int, field: str = "train"
) -> dict[int, float | None]:
    """Seed to accuracy at the arm's best rate at this depth; None where that run diverged."""
    lr = best_rate(records, arm, blocks)
    return {} if lr is None else seed_values(records, field, arm=arm, blocks=blocks, lr=lr, part="training")


def failing(records: Sequence[Line], arm: str, blocks: int) -> int:
    """How many seeds stay below the accuracy that counts as trained, or diverge, at the arm's best rate."""
    return sum(value is None or value < LEAST for value in accuracies(records, arm, blocks).values())


def accuracy_chart(records: Sequence[Line], arms: Mapping[str, str]) -> Chart:
    """Accuracy by depth, each arm at its best rate; what diverged in a seed has no accuracy and is left out."""
    depths = distinct(records, "blocks", part="training")
    panels = []
    for field, title in (("train", "training"), ("test", "test")):
        curves = [
            Curve.over_seeds(
                arm, {blocks: accuracies(records, arm, blocks, field).values() for blocks in depths}
            )
            for arm in arms
        ]
        axis = Axis(f"{title} accuracy", range=(0.0, 1.02), percent=True)
        panels.append(Panel(curves, Axis("residual blocks", log=True), axis, title))
    n = len(distinct(records, "seed"))
    lost = {arm: [blocks for blocks in depths if failing(records, arm, blocks)] for arm in arms}
    texts = [f"{arms[arm]} at {', '.join(map(str, found))}" for arm, found in lost.items() if found]
    finding = (
        f"In some seed training stays below {LEAST:.0%}: {'; '.join(texts)} blocks"
        if texts
        else f"Every arm reaches {LEAST:.0%} in training at every depth"
    )
    return Chart(
        "accuracy",
        finding,
        f"Accuracy after training, each arm at its best rate at each depth; chance is 10% with ten classes. Mean over "
        f"{seeds(n)} with 95% t intervals; runs that diverged have no accuracy and are left out.",
        panels,
    )
