"""One small comparison whose every number can be worked out on paper, and what the page makes of it.

Three seeds, one rate, three epochs, two classes of which one makes up 6 of 10 test samples. The confusion matrices are
not symmetric, a step takes 2, 3 and 4 ms without and 5, 6 and 7 ms with batch norm, and the median that comes out of
the layer goes up and then down again.
"""

import pytest

from batchnorm.records import Records, Run
from batchnorm.report.confusion import confusion, confusion_figures
from batchnorm.report.cost import cost_figure, cost_table
from batchnorm.report.curves import accuracy_figure, loss_figure
from batchnorm.report.distributions import percentile_figure
from batchnorm.report.sensitivity import sensitivity_figure
from batchnorm.report.view import look

# One row a true class: 6 cats of which 2 pass for dogs, 4 dogs of which none passes for a cat.
CONFUSION = {"none": [[4, 2], [0, 4]], "batch": [[5, 1], [0, 4]]}
MILLISECONDS = {"none": 2, "batch": 5}
# Each seed s adds s/10 of the step from the first median to the highest.
MEDIANS = {"none": [0.0, 3.0, 1.0, 1.0], "batch": [0.0, 0.5, -0.5, 0.25]}
LOSSES = {"none": [2.0, 1.5, 1.0], "batch": [1.0, 0.5, 0.25]}
ACCURACIES = {"none": [0.6, 0.7, 0.8], "batch": [0.8, 0.9, 0.9]}


def run(arm, seed):
    place = None if arm == "none" else "after"
    header = {"run": f"{arm}-{seed}", "arm": arm, "placement": place, "lr": 0.1, "seed": seed, "sites": ["s"],
              "parameters": 10, "steps_per_epoch": 7, "initial_weights": str(seed)}  # fmt: skip
    epochs = [
        {"epoch": i, "step": 7 * i, "seconds": float(i), "train_loss": loss, "val_loss": loss,
         "train_accuracy": accuracy, "val_accuracy": accuracy}
        for i, (loss, accuracy) in enumerate(zip(LOSSES[arm], ACCURACIES[arm], strict=True), start=1)
    ]  # fmt: skip
    activations = [
        {"epoch": i, "site": "s", "where": "output", "mean": p50, "std": 1.0,
         "p15": p50 - 1, "p50": p50, "p85": p50 + 1}
        for i, p50 in enumerate(value * (1 + seed / 10) for value in MEDIANS[arm])
    ]  # fmt: skip
    matrix = CONFUSION[arm]
    final = {"test_accuracy": (matrix[0][0] + matrix[1][1]) / 10, "test_loss": 1.0, "diverged": False,
             "confusion": matrix, "train_seconds": 3.0,
             "seconds_per_step": (MILLISECONDS[arm] + seed) / 1000}  # fmt: skip
    return Run(header, epochs, activations, None, final)


@pytest.fixture
def made():
    runs = {r.name: r for r in (run(arm, seed) for arm in ("none", "batch") for seed in range(3))}
    settings = {"norms": ["none", "batch"], "placements": ["after"], "lrs": [0.1], "seeds": 3, "epochs": 3}
    return look(Records({"settings": settings}, {"class_names": ["cat", "dog"]}, [], runs))


def test_rows_of_the_confusion_are_true_classes(made):
    assert confusion(made.arms[0], 2) == ([[12, 6], [0, 12]], 3)
    first = confusion_figures(made)[0]
    assert first.findings[0].text == "none: 'cat' is most often taken for 'dog' (6 of 6 mistakes)"
    assert first.tables[0].rows == [["cat", "12", "6"], ["dog", "0", "12"]]
    heat = first.plots[""].data[0]
    assert [list(row) for row in heat.z] == [[12 / 18, 6 / 18], [0.0, 1.0]]
    assert [list(row) for row in heat.text] == [["12", "6"], ["", "12"]]
    assert heat.customdata[0][1] == "cat taken for dog: 6 of 18<br>33.3%"
    axes = first.plots[""].layout
    assert (axes.yaxis.title.text, axes.xaxis.title.text) == ("true class", "predicted")


def test_the_share_of_cats_is_chance(made):
    assert made.class_counts == [6, 4]
    assert made.chance == 0.6


def test_a_step_takes_twice_as_long_and_not_half(made):
    # Medians 3 and 6 ms; each seed differs by 3 ms, so that the interval has no width.
    none, batch = cost_table(made).rows
    assert none[1:4] == ["3.00 ms", "-", "-"]
    assert batch[1:4] == ["6.00 ms", "+3.00 ms [3.00, 3.00]", "2.00"]
    assert (
        cost_figure(made).findings[0].text == "A step with batch norm takes 3.00 ms more, 2.00 times as long"
    )
    marks = {trace.uid: list(trace.x) for trace in cost_figure(made).plots[""].data}
    assert marks["cost-6-batch"] == pytest.approx([5.0, 6.0, 7.0])
    assert marks["cost-14-batch"] == pytest.approx([6.0])


def test_the_median_moves_by_its_range_and_not_from_start_to_end(made):
    # Ranges 3.0, 3.3, 3.6 without and 1.0, 1.1, 1.2 with; from start to end it would be 1.0 and 0.25.
    # The half width of an interval over x - d, x, x + d is t(0.975, 2) d / sqrt(3) = 2.484 d.
    title = percentile_figure(made, ["s"]).findings[1].text
    assert title == (
        "With batch norm the median of what comes out of s moves less during training: "
        "by 1.10 [0.852, 1.35] instead of 3.30 [2.55, 4.05]"
    )


def test_the_axes_of_the_curves_hold_every_value(made):
    loss = loss_figure(made).plots["epoch|val"]
    assert list(loss.layout.yaxis.range) == pytest.approx([0.0, 1.06 * 2.0])
    accuracy = accuracy_figure(made).plots["epoch|val"]
    assert list(accuracy.layout.yaxis.range) == pytest.approx([0.58, 1.02])
    rates = sensitivity_figure(made).plots[""].layout.yaxis
    assert list(rates.range) == pytest.approx([0.58, 1.04])
    assert list(rates.tickvals) == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0])


def test_the_curves_show_the_numbers_of_the_records(made):
    line = next(t for t in loss_figure(made).plots["step|val"].data if t.uid == "line-batch")
    assert (list(line.x), list(line.y)) == ([7, 14, 21], [1.0, 0.5, 0.25])
    title = loss_figure(made).findings[0].text
    assert (
        title
        == "Batch norm ends with a lower validation loss: 0.250 instead of 1.00, -0.750 [-0.750, -0.750]"
    )
    speed = accuracy_figure(made).findings[0].text
    assert speed == "Batch norm reaches the final accuracy of the network without it 2 epochs sooner"
