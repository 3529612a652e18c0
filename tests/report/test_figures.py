import json
import re

import pytest

from batchnorm.report.confusion import confusion, confusion_figures
from batchnorm.report.cost import cost_figure, cost_table
from batchnorm.report.curves import accuracy_figure, loss_figure
from batchnorm.report.distributions import percentile_figure, percentiles, sites
from batchnorm.report.drawing import faded, spread, text
from batchnorm.report.figure import script_json
from batchnorm.report.histograms import histogram_figure, histograms
from batchnorm.report.sensitivity import sensitivity_figure
from batchnorm.report.view import Detail, look, thin


def traces(figure, key, kind):
    return [trace for trace in figure.plots[key].data if str(trace.uid).startswith(kind)]


def test_json_in_a_script_element_cannot_end_it():
    value = {"a": "</script><!--&\u2028\u2029", "n": [1.0, 0.123456789]}
    written = script_json(value)
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == {"a": value["a"], "n": [1.0, 0.12346]}


def test_json_refuses_numbers_that_are_not_finite():
    with pytest.raises(ValueError, match="JSON compliant"):
        script_json([float("nan")])


def test_plotly_shows_markup_as_text():
    assert text("<b>&") == "&lt;b&gt;&amp;"
    assert faded("#0072B2") == "rgba(0,114,178,0.18)"


def test_labels_keep_their_order_and_distance():
    assert spread([0.5, 0.1], 0.1, 0.0, 1.0) == [0.5, 0.1]
    close = spread([0.97, 0.96, 0.98], 0.1, 0.0, 1.0)
    assert close[1] < close[0] < close[2] <= 1.0
    assert min(close[0] - close[1], close[2] - close[0]) >= 0.0999


def test_thinning_keeps_both_ends():
    assert thin(range(100), 5) == [0, 25, 50, 74, 99]
    assert thin([1, 2], 5) == [1, 2]
    assert thin([1, 2, 3], 1) == [1]
    assert thin([1, 2, 3], 0) == []


def test_curves_have_a_plot_for_each_choice_and_bands_of_the_right_width(view):
    figure = accuracy_figure(view(seeds=5))
    assert sorted(figure.plots) == sorted(
        f"{a}|{s}" for a in ("epoch", "step", "seconds") for s in ("val", "train")
    )
    line = traces(figure, "epoch|val", "line-batch")[0]
    assert list(line.x) == [1, 2, 3, 4]
    assert (line.line.color, line.line.dash, line.marker.symbol) == ("#0072B2", "solid", "square")
    shadow = traces(figure, "epoch|val", "band-batch")[0]
    assert "0.18" in shadow.fillcolor
    high, low = shadow.y[:4], shadow.y[4:][::-1]
    assert all(a < y < b for a, y, b in zip(low, line.y, high, strict=True))
    assert list(traces(figure, "step|val", "line-batch")[0].x) == [32, 64, 96, 128]
    assert "sooner" in figure.findings[0].text
    assert "n = 5 seeds" in figure.captions[0].text


def test_one_seed_has_no_band(view):
    assert traces(accuracy_figure(view(seeds=1)), "epoch|val", "band") == []


def test_diverged_runs_are_not_in_the_curves(view):
    figure = loss_figure(view(lrs=(0.1,), diverge=[("batch", 0.1, 0)]))
    assert "1 diverged run is not in the means" in figure.captions[0].text
    rows = [row for row in figure.tables[0].rows if row[0] == "batch"]
    assert {row[-1] for row in rows} == {"2"}


def test_no_speed_is_claimed_where_the_interval_includes_zero(view):
    same = {"none": 0.95, "batch": 0.95}
    figure = accuracy_figure(view(seeds=5, levels=same, speeds={"none": 1, "batch": 1}, noise=0.02))
    assert "sooner" not in figure.findings[0].text


def test_no_loss_is_claimed_where_the_interval_includes_zero(view):
    figure = loss_figure(view(seeds=5, levels={"none": 0.95, "batch": 0.951}, speeds={}, noise=0.03))
    assert figure.findings[0].text == "No difference shown in the validation loss that batch norm ends with"


def test_each_divergence_is_a_cross_and_counted_in_the_legend(view):
    figure = sensitivity_figure(view(diverge=[("none", 1.0, None), ("batch", 1.0, 1)]))
    crosses = {trace.uid: (list(trace.x), list(trace.text)) for trace in traces(figure, "", "lost")}
    assert crosses == {"lost-none": ([1.0], ["  3/3"]), "lost-batch": ([1.0], ["  1/3"])}
    names = [trace.name for trace in traces(figure, "", "line")]
    assert names == ["none (3 of 9 diverged)", "batch (1 of 9 diverged)"]
    assert figure.plots[""].layout.xaxis.type == "log"
    assert list(traces(figure, "", "line-none")[0].x) == [0.01, 0.1]


def test_the_sensitivity_title_counts_rates_near_the_best(view):
    assert "at 1 of 3 rates with no normalization" in sensitivity_figure(view()).findings[0].text
    assert (
        "Every run diverged"
        in sensitivity_figure(view(diverge=[("none", None, None), ("batch", None, None)])).findings[0].text
    )


def test_a_factor_between_rates_is_not_spanned_over_a_worse_one(view):
    made = view(lrs=(0.01, 0.1, 1.0), noise=0.0)
    for run in made.records.runs.values():
        if run.header["arm"] == "batch":
            run.epochs[-1]["val_accuracy"] = 0.5 if run.header["lr"] == 0.1 else 0.9
    title = sensitivity_figure(look(made.records)).findings[0].text
    assert "2 of 3 rates with batch norm (with worse ones in between)" in title
    for run in made.records.runs.values():
        if run.header["arm"] == "batch":
            run.epochs[-1]["val_accuracy"] = 0.9
    title = sensitivity_figure(look(made.records)).findings[0].text
    assert "3 of 3 rates with batch norm (spanning a factor of 100)" in title


def test_a_lower_loss_is_stated_with_its_interval(view):
    title = loss_figure(view(seeds=5)).findings[0].text
    assert re.fullmatch(
        r"Batch norm ends with a lower validation loss: [\d.]+ instead of [\d.]+, -[\d.]+ \[-[\d.]+, -[\d.]+\]",
        title,
    )


def test_captions_say_which_epochs_were_measured(view):
    made = view(epochs=6)
    assert (
        "before training (epoch 0) and after each epoch, on"
        in percentile_figure(made, ["pool1"]).captions[0].text
    )
    for run in made.records.runs.values():
        run.activations[:] = [line for line in run.activations if line["epoch"] % 3 == 0]
    made = look(made.records)
    caption = percentile_figure(made, ["pool1"]).captions[0].text
    assert "before training (epoch 0) and after 2 of 6 epochs, on" in caption


def test_captions_say_which_epochs_are_drawn(view):
    assert "are drawn" not in loss_figure(view(epochs=6)).captions[0].text
    made = look(view(epochs=6).records, Detail(10, 4, 1))
    assert "4 of 6 epochs are drawn" in loss_figure(made).captions[0].text


def test_the_axis_starts_at_the_share_of_the_most_frequent_class(view):
    made = view(classes="ab", levels={"none": 0.99, "batch": 0.99}, speeds={"none": 9.0, "batch": 9.0})
    for run in made.records.runs.values():
        run.final["confusion"] = [[90, 0], [5, 5]]
    figure = accuracy_figure(look(made.records))
    assert figure.plots["epoch|val"].layout.yaxis.range[0] == pytest.approx(0.88)
    assert "starts at chance (90.0%, always guessing the most frequent class" in figure.captions[0].text


def test_label_smoothing_is_said_where_it_is_in_the_loss(view):
    smooth = view(settings={"set": {"label_smoothing": 0.1}})
    assert "training loss includes label smoothing" in loss_figure(smooth).captions[0].text
    assert "smoothing" not in accuracy_figure(smooth).captions[0].text
    assert "smoothing" not in loss_figure(view()).captions[0].text


def test_percentiles_are_means_over_seeds(view):
    made = view(seeds=2)
    arm = made.arms[1]
    first = percentiles(arm, "pool1", "input", 80)[0]
    lines = [
        line for run in arm.best.values() for line in run.activations
        if (line["epoch"], line["site"], line["where"]) == (0, "pool1", "input")
    ]  # fmt: skip
    assert first.n == 2
    assert first.values["p50"] == pytest.approx(sum(line["p50"] for line in lines) / 2)


def test_each_site_and_side_has_plot_title_and_table(view):
    made = view()
    assert sites(made) == ["pool1", "pool2"]
    figure = percentile_figure(made, sites(made))
    assert sorted(figure.plots) == ["0|input", "0|output", "1|input", "1|output"]
    assert [note.when for note in figure.findings] == [table.when for table in figure.tables]
    output = next(note.text for note in figure.findings if note.when == "site=0&side=output")
    assert output.startswith(
        "With batch norm the median of what comes out of pool1 moves less during training: by "
    )
    inside = next(note.text for note in figure.findings if note.when == "site=0&side=input")
    assert "no difference shown" in inside


def test_sites_are_compared_at_one_point_of_the_network(view):
    arms = [("none", None), ("batch", "before"), ("batch", "after")]
    made = view(arms=arms, levels={"none": 0.9, "batch": 0.9})
    assert [arm.label for arm in made.site_arms] == ["none", "batch (before)"]
    figure = percentile_figure(made, ["pool1"])
    assert "batch norm before the activation" in figure.findings[1].text.lower()
    assert "The values of none are taken before the activation" in figure.captions[0].text
    assert "taken" not in percentile_figure(view(), ["pool1"]).captions[0].text


def test_many_arms_start_hidden_where_each_draws_several_lines(view):
    arms = [("none", None), *((arm, "after") for arm in ("batch", "layer", "group", "instance"))]
    figure = percentile_figure(view(arms=arms, seeds=1), ["pool1"])
    state = {
        trace.uid: trace.visible for trace in figure.plots["0|input"].data if trace.uid.startswith("p50")
    }
    assert [name for name, shown in state.items() if shown is True] == ["p50-none", "p50-batch"]
    assert "Click an arm in the legend" in figure.captions[0].text


def test_histograms_are_densities_of_the_first_and_last_epoch(view):
    made = view()
    seed, found = histograms(made.arms[1], "pool1")
    assert (seed, {h.epoch for h in found}, {h.side for h in found}) == (0, {0, 4}, {"input", "output"})
    for h in found:
        area = sum(d * (b - a) for d, a, b in zip(h.density, h.edges, h.edges[1:], strict=False))
        assert area == pytest.approx(1.0)
    figure = histogram_figure(made, ["pool1"])
    assert len(figure.plots["0"].data) == 2 * 2 * 2


def test_damaged_histograms_are_left_out(view):
    made = view(sites=("a",))
    for arm in made.arms:
        for run in arm.best.values():
            for line in run.activations:
                if "histogram" in line:
                    line["histogram"] = {"edges": [0, 0, 1], "counts": [1, 2]}
    assert histograms(made.arms[0], "a") == (None, [])
    assert histogram_figure(made, ["a"]).findings[0].text == "Histograms at a were not recorded"


def test_confusion_sums_over_seeds(view):
    made = view(seeds=3)
    counts, used = confusion(made.arms[0], 10)
    assert used == 3
    assert sum(map(sum, counts)) == 3 * 400
    figure = confusion_figures(made)[0]
    heat = figure.plots[""].data[0]
    assert heat.type == "heatmap"
    assert figure.plots[""].layout.yaxis.autorange == "reversed"
    assert [row[0] for row in figure.tables[0].rows] == list("0123456789")


def test_confusion_of_many_classes_lists_the_largest(view):
    made = view(classes=[f"c{i}" for i in range(40)], samples=0)
    figure = confusion_figures(made)[0]
    assert len(figure.tables[0].rows) <= 40
    assert "texttemplate" not in figure.plots[""].data[0].to_plotly_json()


def test_a_tie_between_pairs_is_not_a_finding(view):
    made = view(samples=0, seeds=1, lrs=(0.1,), classes="abc")
    for arm in made.arms:
        for run in arm.best.values():
            run.final["confusion"] = [[5, 1, 0], [0, 5, 1], [0, 0, 5]]
    assert confusion_figures(made)[0].findings[0].text == (
        "none: no pair of classes stands out among 2 mistakes (at most 1 of one kind)"
    )


def test_cost_is_claimed_only_with_an_interval(view):
    assert (
        cost_figure(view()).findings[0].text == "A step with batch norm takes 800 µs more, 1.20 times as long"
    )
    one = cost_figure(view(seeds=1)).findings[0].text
    assert one == "No arm is shown to take longer for a step than the network without"
    rows = cost_table(view()).rows
    assert [row[-1] for row in rows] == ["61,706", "61,750"]
