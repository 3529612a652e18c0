"""Judged claims with every kind of mark, for tests of the lab's pages."""

from batchnorm.records.charts import Axis, Cells, Chart, Curve, Histogram, Panel, Points, Violin
from batchnorm.records.claim import Claim, Source
from batchnorm.records.judged import Judged
from batchnorm.records.verdict import Check, Verdict

__all__ = ["CHARTS", "claim", "judged", "verdict"]

STEPS, LOSS = Axis("steps"), Axis("loss (nats)")
DEPTH, MOMENT = Axis("depth", log=True), Axis("moment", log=True)
CURVES = [
    Curve("none", (1, 2, 3), (3.0, None, 2.0)),
    Curve("batch", (1, 2, 3), (2.0, 1.5, 1.0), (1.5, 1.0, 0.5), (2.5, 2.0, 1.5)),
    Curve("skipinit", (1, 2), (1.0, 0.5), hollow=True),
]
GROWTH = [
    Panel([Curve("none", (1, 10), (1.0, 1e6))], Axis("depth", log=True, range=(1, 100)), MOMENT),
    Panel([Curve("batch", (1, 10), (1.0, 2.0))], DEPTH, MOMENT, title="with"),
]
POINTS = [
    Points("none", ("relu", "tanh"), (0.5, 0.6), (0.4, None), (0.6, None)),
    Points("batch", ("relu", "tanh"), (0.9, None)),
]
SHAPES = [
    Panel([Histogram("batch", (0, 1, 2), (3, 4))], Axis("value"), Axis("count"), title="histogram"),
    Panel(
        [Violin("none", "h1", (1.0, 2.0, 9.0)), Violin("batch", "h1", (1.0, 1.1))],
        Axis("layer"),
        Axis("activation"),
        title="violin",
    ),
    Panel(
        [Cells(("0", "1"), ("0.1", "0.2"), ((1, 0), (0, None)), "depends")],
        Axis("channel"),
        Axis("sample"),
        title="cells",
    ),
]
ACTIVATIONS = Panel(POINTS, Axis("activation"), Axis("accuracy", percent=True))
CHARTS = (
    Chart("curves", "Batch norm is ahead", "Mean over 5 seeds.", [Panel(CURVES, STEPS, LOSS)]),
    Chart("growth", "It grows", "One seed.", GROWTH),
    Chart("points", "Points differ", "Bars are 95% intervals.", [ACTIVATIONS]),
    Chart("shapes", "Shapes differ", "One batch.", SHAPES),
)


def claim(number=4, name="smoother", **fields):
    given = {
        "title": "Is the landscape smoother?",
        "claim": "It is smoother.",
        "source": Source("A. Author, 2018", "https://example.org/paper"),
        "published": "Twice as smooth, figure 1.",
        "method": "A small network on digits.",
        "criterion": "At least 2 times.",
        "does_not_show": "What happens in large ones.",
        "arms": {"none": "no normalization", "batch": "batch norm"},
    }
    return Claim(number=number, name=name, **(given | fields))


def verdict(*held, **said):
    checks = [Check(f"part {i} of the criterion", f"{i}.5 (5 seeds)", each) for i, each in enumerate(held)]
    return Verdict.of(checks, 3.25, unit="times", finding="It was 3.25 times as smooth.", **said)


def judged(found=None, *, quick=False, charts=CHARTS, finished=10, **fields):
    config = {
        "settings": {"quick": quick, "seeds": 5, "data": "digits", "data_digest": None},
        "versions": {"torch": "2.13.0"},
        "device": "CPU: one",
        "command": "batchnorm lab run smoother",
        "started": "2026-01-01T00:00:00+00:00",
    }
    shown = charts if found else ()
    return Judged(claim(**fields), config, 10, finished, 90.0, found, shown)
