import asyncio
import re
import struct
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from batchnorm.errors import MissingExtraError, StoreError, UsageError
from batchnorm.records.charts import Axis, Chart, Curve, Panel
from batchnorm.records.identity import IDENTITIES
from batchnorm.report import exporting, pictures
from batchnorm.report.assets import text_asset
from batchnorm.report.drawing import dark_colours, faded
from batchnorm.report.framing import THEMES, WIDTH, framed
from batchnorm.report.pictures import chosen, write_pictures
from batchnorm.report.plots import Look, chart_figure, looks_of
from batchnorm.report.svg import tidy
from tests.report.browsing import chromium  # noqa: F401 (a fixture)
from tests.report.conftest import HOSTILE
from tests.report.judged_factory import CHARTS, judged, verdict

WORDS = {"none": "no normalization", "batch": "batch norm"}
SURVEY = [judged(verdict(True)), judged(verdict(True), name="other", number=5, charts=CHARTS[:1])]
SPACE = "{http://www.w3.org/2000/svg}"


def frame(chart, theme="light"):
    looks = looks_of(WORDS, [chart])
    darker = dark_colours([Look(arm, look) for arm, look in looks.items()])
    return framed(chart_figure(chart, looks, WORDS), theme, darker)


def lines(count=2, finding="It grows", label="line"):
    marks = [Curve("batch", (1, 2, 3), (1.0, 2.0, 3.0), label=f"{label} {i}") for i in range(count)]
    return Chart("lines", finding, "One seed.", [Panel(marks, Axis("x", log=True), Axis("y"))])


def title(chart):
    return frame(chart).spec["layout"]["title"]["text"]


def test_a_long_finding_takes_more_height_and_keeps_its_intervals_whole():
    long = (
        "With batch norm the rank grows like the width to the power of about one half, 0.546 [0.482, 0.610]"
    )
    assert title(lines(finding="It grows")) == "<b>It grows</b>"
    first, second = re.findall("<b>(.*?)</b>", title(lines(finding=long)))
    assert f"{first} {second}".replace("\u00a0", " ") == long
    assert "[0.482,\u00a00.610]" in second
    assert abs(len(first) - len(second)) < 15
    short, tall = frame(lines()), frame(lines(finding=long))
    assert tall.height - short.height == pytest.approx(1.3 * 16, abs=1)
    assert tall.width == short.width == WIDTH


def test_words_are_shown_as_they_are():
    shown = title(lines(finding=HOSTILE))
    assert "<img" not in shown
    assert "&lt;" in shown


def test_a_legend_of_several_rows_gets_room_of_its_own():
    few, many = frame(lines(2)), frame(lines(9, label="a name of some length"))
    assert many.height - few.height == 29 * 2
    assert many.spec["layout"]["margin"]["b"] - few.spec["layout"]["margin"]["b"] == 29 * 2


def test_themes_change_every_colour_and_are_those_of_the_page():
    script = text_asset("page.js")
    for name, theme in THEMES.items():
        colours = f'ink: "{theme.ink}", grid: "{theme.grid}", line: "{theme.line}", page: "{theme.page}"'
        assert f"{name}: {{ {colours} }}" in script
    light, dark = (str(frame(CHARTS[0], theme).spec) for theme in THEMES)
    for arm in ("none", "batch"):
        look = IDENTITIES[arm]
        assert (look.colour in light, look.colour in dark) == (True, False)
        assert (look.dark in light, look.dark in dark) == (False, True)
    assert faded(IDENTITIES["batch"].colour) not in dark
    for theme in THEMES:
        layout = frame(CHARTS[0], theme).spec["layout"]
        assert layout["paper_bgcolor"] == THEMES[theme].page
        assert layout["font"]["color"] == THEMES[theme].ink
        assert layout["xaxis"]["gridcolor"] == THEMES[theme].grid


def test_names_choose_charts_or_whole_claims():
    every = [each.name for each in chosen(SURVEY, ())]
    assert every == [
        "smoother-curves",
        "smoother-growth",
        "smoother-points",
        "smoother-shapes",
        "other-curves",
    ]
    assert [each.name for each in chosen(SURVEY, ["other", "smoother-points"])] == [
        "smoother-points",
        "other-curves",
    ]


def test_what_is_unknown_is_named_with_the_choices(tmp_path):
    with pytest.raises(UsageError, match="picture 'nothing' is unknown here; choose from smoother-curves, "):
        write_pictures(tmp_path, SURVEY, ["nothing"])
    with pytest.raises(UsageError, match="format 'pdf' is unknown; choose from svg, png"):
        write_pictures(tmp_path, SURVEY, formats=["svg", "pdf"])
    with pytest.raises(UsageError, match="theme 'grey' is unknown; choose from light, dark"):
        write_pictures(tmp_path, SURVEY, themes=["grey"])
    with pytest.raises(UsageError, match="no format is named"):
        write_pictures(tmp_path, SURVEY, formats=[])
    with pytest.raises(StoreError, match="nothing to draw"):
        write_pictures(tmp_path, [judged(None)])
    assert list(tmp_path.iterdir()) == []


def test_without_kaleido_the_install_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(MissingExtraError, match=r"kaleido.*pip install 'batchnorm\[pictures\]'"):
        exporting.export([(frame(CHARTS[0]), "svg")])


@pytest.mark.parametrize("error", ["ChromeNotFoundError", "BrowserFailedError"])
def test_without_a_browser_it_is_one_line_that_says_what_to_do(monkeypatch, error):
    kaleido = pytest.importorskip("kaleido")

    def missing(**options):
        raise getattr(kaleido.errors, error)("no")

    monkeypatch.setattr(kaleido, "Kaleido", missing)
    expected = MissingExtraError if error == "ChromeNotFoundError" else UsageError
    with pytest.raises(expected, match=r"apt install chromium.*BROWSER_PATH") as caught:
        exporting.export([(frame(CHARTS[0]), "svg")])
    assert "\n" not in str(caught.value)


def test_ids_depend_on_the_name_alone_and_words_are_escaped():
    def drawing(mark):
        return (
            f'<svg class="main-svg" width="1"><defs id="defs-{mark}"><clipPath id="clip{mark}xy"/></defs>'
            f'<g clip-path="url(#clip{mark}xy)" fill="#{mark}"/><g id="topdefs-{mark}"/>'
            f'<g clip-path="url(#legend{mark})"/><linearGradient id="g{mark}-cb3"/>'
            f'<rect style="fill: url(\'#g{mark}-cb3\');"/><clipPath id="legend{mark}"/></svg>'
        )

    first, second = (tidy(drawing(mark), "a", HOSTILE, "b < c") for mark in ("0123ab", "fedcba"))
    assert first.replace("#0123ab", "") == second.replace("#fedcba", "")
    assert 'fill="#0123ab"' in first
    other = tidy(drawing("0123ab"), "b", HOSTILE, "b < c")
    assert not set(re.findall(r' id="([^"]+)"', first)) & set(re.findall(r' id="([^"]+)"', other))
    root = ElementTree.fromstring(first)
    assert (root[0].text, root[1].text) == (HOSTILE, "b < c")
    assert root.get("aria-labelledby").split() == [root[0].get("id"), root[1].get("id")]
    for used in re.findall(r"url\('?#([^)']+)'?\)", first):
        assert f'id="{used}"' in first


@pytest.mark.browser
def test_files_are_drawn_in_a_browser_and_again_to_the_same_bytes(chromium, tmp_path):  # noqa: F811
    options = {"formats": ["svg", "png"], "themes": ["light", "dark"]}
    paths = write_pictures(tmp_path / "a", SURVEY[:1], ["smoother-curves", "smoother-shapes"], **options)
    assert [path.name for path in paths] == [
        f"smoother-{chart}{theme}.{kind}"
        for chart in ("curves", "shapes") for theme in ("", "-dark") for kind in ("svg", "png")
    ]  # fmt: skip
    for path in write_pictures(tmp_path / "b", SURVEY[:1], ["smoother-curves", "smoother-shapes"], **options):
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()

    for chart in (CHARTS[0], CHARTS[3]):
        height = frame(chart).height
        drawn = (tmp_path / "a" / f"smoother-{chart.name}.svg").read_text()
        root = ElementTree.fromstring(drawn)
        assert (root.get("width"), root.get("height")) == (str(WIDTH), str(height))
        assert (root.find(f"{SPACE}title").text, root.find(f"{SPACE}desc").text) == (
            chart.finding,
            chart.caption,
        )
        said = "".join(root.itertext())
        assert chart.panels[-1].x.title in said
        assert chart.finding in said.replace(chart.finding, "", 1)
        png = (tmp_path / "a" / f"smoother-{chart.name}.png").read_bytes()
        assert struct.unpack(">II", png[16:24]) == (2 * WIDTH, 2 * height)
    assert "rgb(0, 114, 178)" in (tmp_path / "a" / "smoother-curves.svg").read_text()
    assert "rgb(58, 159, 222)" in (tmp_path / "a" / "smoother-curves-dark.svg").read_text()


@pytest.mark.browser
def test_it_works_where_a_loop_is_running(chromium, tmp_path):  # noqa: F811
    async def notebook():
        return write_pictures(tmp_path, SURVEY, ["other"])

    assert [path.name for path in asyncio.run(notebook())] == ["other-curves.svg"]


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "export", lambda drawn: [b"<svg ></svg>"] * len(drawn))
    (tmp_path / "there").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot make the folder '.*there'"):
        write_pictures(tmp_path / "there", SURVEY, ["other"])
