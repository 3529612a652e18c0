import json

import pytest

from batchnorm.records.charts import Axis, Cells, Chart, Curve, Panel, Violin
from batchnorm.records.identity import IDENTITIES
from batchnorm.report.chart_tables import tables
from batchnorm.report.plots import chart_figure, looks_of
from tests.report.judged_factory import CHARTS

WORDS = {"none": "no normalization", "batch": "batch norm"}


def drawn(name):
    chart = next(each for each in CHARTS if each.name == name)
    figure = chart_figure(chart, looks_of(WORDS, CHARTS), WORDS)
    spec = json.loads(figure.json)["plots"][""]
    return spec["data"], spec["layout"]


def by_uid(data, start):
    return [trace for trace in data if trace["uid"].startswith(start)]


def test_arms_keep_their_look_and_others_get_one_of_their_own():
    looks = looks_of(WORDS, CHARTS)
    assert list(looks) == ["none", "batch", "skipinit"]
    assert looks["batch"] == IDENTITIES["batch"]
    assert looks["skipinit"].colour not in {each.colour for each in IDENTITIES.values()}
    data, _ = drawn("curves")
    lines = {trace["name"]: trace for trace in data if trace.get("mode") == "lines+markers"}
    assert {name: trace["line"]["dash"] for name, trace in lines.items()} == {
        "no normalization": IDENTITIES["none"].dash,
        "batch norm": IDENTITIES["batch"].dash,
        "skipinit": looks["skipinit"].dash,
    }
    assert "open" in lines["skipinit"]["marker"]["symbol"]


def test_a_band_lies_where_its_numbers_are_and_nowhere_else():
    data, _ = drawn("curves")
    (band,) = by_uid(data, "band")
    assert (band["x"], band["y"]) == ([1, 2, 3, 3, 2, 1], [2.5, 2.0, 1.5, 0.5, 1.0, 1.5])
    assert band["xaxis"] == "x"


def test_few_lines_are_named_at_their_ends_and_have_no_legend():
    data, layout = drawn("curves")
    ends = {trace["text"][0].strip(): (trace["x"][0], trace["y"][0]) for trace in by_uid(data, "end")}
    assert ends.keys() == {"no normalization", "batch norm", "skipinit"}
    assert ends["no normalization"] == (3, 2.0)
    assert layout["showlegend"] is False


def test_logarithmic_axes_and_their_ranges():
    data, layout = drawn("growth")
    assert [layout[axis]["type"] for axis in ("xaxis", "yaxis", "xaxis2", "yaxis2")] == ["log"] * 4
    assert layout["xaxis"]["range"] == [0, 2]
    assert not by_uid(data, "end")
    assert layout["xaxis"]["domain"][1] < layout["xaxis2"]["domain"][0]
    assert [note["text"] for note in layout["annotations"]] == ["with"]


def test_points_above_names_stand_beside_each_other_with_their_bars():
    data, layout = drawn("points")
    assert layout["scattermode"] == "group"
    assert layout["xaxis"]["type"] == "category"
    assert layout["yaxis"]["tickformat"] == ".0%"
    assert [trace["offsetgroup"] for trace in data] == ["no normalization", "batch norm"]
    bars = data[0]["error_y"]
    assert bars["array"] == pytest.approx([0.1, 0.0])
    assert bars["arrayminus"] == pytest.approx([0.1, 0.0])
    # Grouping would tear a line from its band.
    assert "scattermode" not in drawn("curves")[1]


def test_panels_fill_rows_and_names_that_look_like_numbers_stay_names():
    data, layout = drawn("shapes")
    assert layout["yaxis"]["domain"][0] > layout["yaxis3"]["domain"][1]
    assert layout["xaxis"]["domain"] == layout["xaxis3"]["domain"]
    assert (layout["xaxis3"]["type"], layout["yaxis3"]["autorange"]) == ("category", "reversed")
    outline, *violins, cells = data
    assert outline["y"] == [0, 3, 4, 0]
    assert [trace["offsetgroup"] for trace in violins] == ["no normalization", "batch norm"]
    assert cells["z"] == [[1, 0], [0, None]]


def test_the_tables_hold_the_numbers():
    found = {chart.name: tables(chart, WORDS) for chart in CHARTS}
    (curves,) = found["curves"]
    assert curves.head == ["", "steps", "loss (nats) [95%]"]
    assert curves.rows[:2] == [["no normalization", "1", "3.00"], ["no normalization", "2", "-"]]
    assert curves.rows[3] == ["batch norm", "1", "2.00 [1.50, 2.50]"]
    histogram, violin, cells = found["shapes"]
    assert (
        histogram.rows == [["batch norm", "0", "1", "3.00"], ["batch norm", "1", "2", "4.00"]]
        or histogram.rows
    )
    assert violin.rows[0] == ["no normalization", "h1", "median 2.00, 1.00 to 9.00 (n = 3)"]
    assert cells.rows == [["0", "1", "0"], ["1", "0", "-"]]


def test_a_long_table_is_thinned_evenly():
    chart = Chart(
        "long", "Long", "c", [Panel([Curve("none", range(1000), [1.0] * 1000)], Axis("x"), Axis("y"))]
    )
    (table,) = tables(chart, {})
    assert [row[1] for row in table.rows] == [str(x) for x in range(0, 1000, 5)]


def cells(*panels, diverging=False):
    maps = [Panel([Cells("ab", "c", values, "moved", diverging)], Axis("x"), Axis("y")) for values in panels]
    figure = chart_figure(Chart("cells", "Cells", "", maps), {}, {})
    spec = json.loads(figure.json)["plots"][""]
    return figure, spec["data"]


def test_heat_maps_of_a_chart_share_one_scale_and_one_key():
    figure, data = cells([[2.0], [3.0]], [[-1.0], [None]])
    assert [(trace["zmin"], trace["zmax"]) for trace in data] == [(-1, 3)] * 2
    assert [trace["showscale"] for trace in data] == [False, True]
    assert data[1]["colorbar"]["title"]["text"] == "moved"
    assert figure.height == 420 + 62
    _, data = cells([[2.0], [3.0]], [[-1.0], [None]], diverging=True)
    assert [(trace["zmin"], trace["zmax"]) for trace in data] == [(-3, 3)] * 2


def test_yes_and_no_are_two_plain_colours():
    _, data = cells([[0], [1]], [[0], [0]])
    for trace in data:
        places, colours = zip(*trace["colorscale"], strict=True)
        assert places == (0, 0.5, 0.5, 1)
        assert colours[0] == colours[1] != colours[2] == colours[3]
        assert (trace["zmin"], trace["zmax"]) == (0, 1)
    assert data[1]["colorbar"]["ticktext"] == ["no", "yes"]


def test_points_above_names_keep_room_for_their_markers_and_bars():
    _, layout = drawn("points")
    low, high = layout["yaxis"]["range"]
    assert (low, high) == pytest.approx((0.4 - 0.03, 0.9 + 0.03))


def test_few_places_on_a_logarithmic_axis_are_its_ticks():
    _, layout = drawn("growth")
    assert layout["xaxis"]["tickvals"] == [1, 10]
    assert layout["xaxis"]["ticktext"] == ["1", "10"]
    many = Curve("none", tuple(range(1, 10)), tuple(map(float, range(1, 10))))
    chart = Chart("x", "x", "", [Panel([many], Axis("x", log=True), Axis("y"))])
    figure = chart_figure(chart, looks_of(WORDS, [chart]), WORDS)
    assert json.loads(figure.json)["plots"][""]["layout"]["xaxis"]["ticktext"] == ["1", "2", "5", "10"]


def test_a_logarithmic_axis_is_marked_for_all_it_shows_bands_and_range_included():
    powers = ["1", "10", *(f"10<sup>{power}</sup>" for power in range(2, 7))]
    assert drawn("growth")[1]["yaxis"]["ticktext"] == powers
    banded = Curve("none", (1, 2), (3.0, 4.0), (0.3, 0.4), (30.0, 40.0))
    violin = Violin("none", "h1", (1e-3, 1.0))
    for mark, axis, ticks in (
        (banded, Axis("y", log=True), ["0.1", "1", "10", "100"]),
        (banded, Axis("y", log=True, range=(1.0, 8.0)), ["1", "2", "5"]),
        (violin, Axis("y", log=True), ["0.001", "0.01", "0.1", "1"]),
    ):
        chart = Chart("x", "x", "", [Panel([mark], Axis("x"), axis)])
        figure = chart_figure(chart, looks_of(WORDS, [chart]), WORDS)
        assert json.loads(figure.json)["plots"][""]["layout"]["yaxis"]["ticktext"] == ticks


def test_only_names_at_the_ends_of_lines_take_room_on_the_right():
    assert drawn("curves")[1]["margin"]["r"] == 140
    assert drawn("points")[1]["margin"]["r"] == 24
    chart = Chart("x", "x", "", [Panel([Curve("none", (1, 2), (1.0, 2.0))], Axis("x", log=True), Axis("y"))])
    figure = chart_figure(chart, looks_of(WORDS, [chart]), WORDS)
    assert json.loads(figure.json)["plots"][""]["layout"]["margin"]["r"] == 24
