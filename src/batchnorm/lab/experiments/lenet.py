"""2. How much sooner does LeNet learn with batch norm?

Seed 002 trains LeNet with and without batch norm for 10 epochs and shows curves of loss and accuracy and a table of
predictions; its numbers are lost. This is `batchnorm compare`: the same runs (`lab.training.train`) and the same
statistics (`records.summary`). Each arm is judged at its own best learning rate, chosen on the validation split, so
that batch norm is not praised for a rate that only it can use.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.records.charts import Axis, Cells, Chart, Curve, Panel
from batchnorm.records.claim import Source
from batchnorm.records.selection import distinct, select, values
from batchnorm.records.store import Line, Records, Run
from batchnorm.records.summary import ArmSummary, summarize
from batchnorm.records.tables import Table
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import epochs, percent, percent_interval, points, rate, seeds

if TYPE_CHECKING:
    from batchnorm.lab.config import CompareConfig

__all__ = ["EXPERIMENT"]

EPOCHS, BATCH_SIZE = 10, 32
LRS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # the grid that `batchnorm compare` takes for SGD
SHOWN = 24
ARMS = {"none": "no normalization", "batch": "batch norm"}
KEPT = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")


def plan(scale: Scale) -> list[Task]:
    """Both arms at each rate and seed, as long in a quick survey as in a full one."""
    return [
        Task.of(arm, seed, lr=lr, epochs=EPOCHS, data=scale.data)
        for seed in range(scale.seeds)
        for lr in LRS
        for arm in ARMS
    ]


def run(task: Task) -> list[dict[str, Any]]:
    """One run of a comparison: a line an epoch, then the test split with the predictions of some samples."""
    from batchnorm.lab import plan as comparison
    from batchnorm.lab.data import cached
    from batchnorm.lab.training import train

    data = cached(task["data"])
    placement = None if task.arm == "none" else "after"
    samples = list(range(0, len(data.test.y), max(1, len(data.test.y) // SHOWN)))[:SHOWN]
    lines = train(_config(task), comparison.Task(task.arm, placement, task["lr"], task.seed), data, samples)
    records = [{key: line[key] for key in KEPT} for line in lines if line["kind"] == "epoch"]
    end: dict[str, Any] = {}
    for line in lines:
        if line["kind"] == "final":
            end |= {key: line[key] for key in ("test_accuracy", "test_loss", "diverged", "confusion")}
        if line["kind"] == "prediction":
            end |= {key: line[key] for key in ("index", "predicted", "confidence")}
    end |= {"labels": data.test.y[samples].tolist(), "classes": list(data.class_names)}
    return [*records, end]


def _config(task: Task) -> "CompareConfig":
    from batchnorm.lab.config import CompareConfig

    return CompareConfig.of(
        data=task["data"],
        model="lenet",
        norms=tuple(ARMS),
        lrs=LRS,
        batch_size=BATCH_SIZE,
        epochs=task["epochs"],
        device="cpu",
    )


def verdict(records: Sequence[Line]) -> Verdict:
    """The epochs that batch norm needs to the accuracy with which the plain network ends, less that network's own."""
    none, batch = _arms(records)
    found = batch.reach
    sooner = None if found is None else found.epochs_difference
    arrived = "-" if found is None else f"{found.reached} of {found.compared} seeds got there"
    holds = sooner is not None and sooner.high is not None and sooner.high < 0
    check = Check("95% interval of the difference in epochs (batch norm less none), each at its best rate: below 0",
                  f"{epochs(sooner, sign=True)}; {arrived}", holds)  # fmt: skip
    ends = (
        f"Batch norm at rate {rate(batch.best_lr)} ended at {percent_interval(batch.test_accuracy)} test accuracy, "
        f"none at rate {rate(none.best_lr)} at {percent_interval(none.test_accuracy)}: "
        f"{points(batch.accuracy_difference)}."
    )
    finding = (
        f"The epochs that LeNet needs to the accuracy with which it ends without batch norm change by "
        f"{epochs(sooner, sign=True)} with it ({seeds(sooner.n)}, paired). {ends}"
        if sooner is not None
        else f"With batch norm {arrived} with which LeNet ends without it, so there is no difference in epochs. {ends}"
    )
    against = sooner is not None and sooner.low is not None and sooner.low > 0
    contradiction = "Each at its best rate, LeNet learned sooner without batch norm." if against else ""
    return Verdict.of([check], sooner, unit="epochs", finding=finding, contradiction=contradiction)


def _arms(records: Sequence[Line]) -> list[ArmSummary]:
    """The arms as `batchnorm compare` sums them up."""
    runs: dict[str, Run] = {}
    for line in records:
        header = {**line, "placement": None if line["arm"] == "none" else "after"}
        found = runs.setdefault(f"{line['arm']}, {line['lr']}, {line['seed']}", Run(header))
        if "epoch" in line:
            found.epochs.append(line)
        else:
            found.final = line
    settings = {"norms": list(ARMS), "placements": ["after"]}
    return list(summarize(Records({"settings": settings}, runs=runs)).arms)


def figures(records: Sequence[Line]) -> list[Chart]:
    """Curves of loss and accuracy, what each rate gave, the confusions, and the table of predictions."""
    arms = _arms(records)
    best = {arm.arm: arm.best_lr for arm in arms}
    curves, at = {}, distinct(records, "epoch")
    for field in ("val_loss", "val_accuracy"):
        curves[field] = [
            Curve.over_seeds(
                arm,
                {epoch: values(records, field, arm=arm, lr=lr, epoch=epoch) for epoch in at},
                label=ARMS[arm],
            )
            for arm, lr in best.items()
        ]
    rates = [
        Curve.over_seeds(arm, {lr: _last(records, arm, lr) for lr in distinct(records, "lr")}, label=words)
        for arm, words in ARMS.items()
    ]
    passes, right = Axis("epochs"), Axis("accuracy", range=(0.0, 1.05), percent=True)
    n = len({line["seed"] for line in records})
    chosen = ", ".join(f"{rate(lr)} for {ARMS[arm]}" for arm, lr in best.items())
    none, batch = arms
    difference = None if batch.reach is None else batch.reach.epochs_difference
    edges = "".join(
        f" {ARMS[arm.arm].capitalize()} has its best rate at the edge of the grid."
        for arm in arms
        if arm.at_edge
    )
    return [
        Chart(
            "training",
            f"Epochs to the plain network's final accuracy: {epochs(difference, sign=True)} with batch norm",
            f"Validation split after each epoch, at the best rate of each ({chosen}): mean of {seeds(n)} with 95% t "
            "intervals.",
            [
                Panel(curves["val_loss"], passes, Axis("cross entropy (nats)", log=True), title="loss"),
                Panel(curves["val_accuracy"], passes, right, title="accuracy"),
            ],
        ),
        Chart(
            "rates",
            f"The best rate is {rate(none.best_lr)} without and {rate(batch.best_lr)} with batch norm",
            f"Validation accuracy after the last epoch: mean of {seeds(n)} with 95% t intervals; a run that diverged "
            f"counts as 0.{edges}",
            [Panel(rates, Axis("learning rate", log=True), right)],
        ),
        _predictions(records, best),
    ]


def _last(records: Sequence[Line], arm: str, lr: float) -> list[float | None]:
    """Validation accuracy after the last epoch of each seed."""
    found = {line["seed"]: 0.0 if line["diverged"] else None for line in _ends(records, arm, lr)}
    for line in select(records, arm=arm, lr=lr):
        if "epoch" in line and found[line["seed"]] != 0.0:
            found[line["seed"]] = line["val_accuracy"]
    return list(found.values())


def _ends(records: Sequence[Line], arm: str, lr: float | None) -> list[Line]:
    return [line for line in select(records, arm=arm, lr=lr) if "classes" in line]


def _predictions(records: Sequence[Line], best: dict[str, float | None]) -> Chart:
    panels, guesses, right = [], {}, []
    for arm, lr in best.items():
        ends = _ends(records, arm, lr)
        names = ends[0]["classes"]
        counts = [line["confusion"] for line in ends if line["confusion"] is not None]
        total = [[sum(column) for column in zip(*rows, strict=True)] for rows in zip(*counts, strict=True)]
        cells = Cells(names, names, total, "test samples")
        panels.append(Panel([cells], Axis("predicted"), Axis("label"), title=ARMS[arm]))
        guesses[arm] = ends[0]
        right.append(f"{percent(_share(total))} {'with' if arm == 'batch' else 'without'} batch norm")
    first = guesses["none"]
    rows = []
    for place, label in enumerate(first["labels"]):
        row = [str(first["index"][place]) if "index" in first else str(place), names[label]]
        for line in guesses.values():
            said = "predicted" in line
            row += [
                f"{names[line['predicted'][place]]} ({percent(line['confidence'][place])})"
                if said
                else "diverged"
            ]
        rows.append(row)
    table = Table(
        f"Predictions of {len(rows)} test samples with their confidence, seed {first['seed']}",
        ["sample", "label", *(ARMS[arm] for arm in guesses)],
        rows,
        text_columns=4,
    )
    return Chart(
        "predictions",
        f"Right on the test split: {' and '.join(right)}",
        "Test samples of all seeds, rows the labels and columns the predictions, each at its best rate. The samples of "
        "the table are evenly spaced in the test split, not chosen.",
        panels,
        tables=[table],
    )


def _share(counts: Sequence[Sequence[int]]) -> float | None:
    total = sum(map(sum, counts))
    return sum(row[place] for place, row in enumerate(counts)) / total if total else None


EXPERIMENT = Experiment(
    number=2,
    name="lenet",
    title="How much sooner does LeNet learn with batch norm?",
    claim="LeNet with batch norm learns in fewer epochs than without.",
    source=Source(
        "S. Maheshkar, Normalization Series: What is Batch Norm? (Weights & Biases), with the network of Y. LeCun et "
        "al., Gradient-based learning applied to document recognition, 1998",
        "https://doi.org/10.1109/5.726791",
    ),
    published="Curves of loss and accuracy over 10 epochs and a table of predictions; no number survives.",
    method=f"LeNet, batch norm after each pooling as in the article, SGD, batch {BATCH_SIZE}, {EPOCHS} epochs, cross "
    "entropy, the same weights and batches in both; digits at 32x32, standardised. This is batchnorm compare: each "
    f"arm at the best of {len(LRS)} rates by its validation accuracy. Six seeds at least: epochs are whole numbers, "
    "and three did not decide it.",
    criterion="The paired 95% interval of the difference in epochs to the validation accuracy with which none ends "
    "lies below 0.",
    does_not_show="What a larger network or more data would give. An epoch with batch norm takes longer than one "
    "without; batchnorm compare measures time as well.",
    arms=ARMS,
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(80.0, 135.0),
    seeds=(6, 10),
    uses_data=True,
)
