"""The page as a whole in a browser: sections, table, widths, modes, print, hostile and unusual records."""

import json

import pytest

from batchnorm.report import write
from tests.report.browsing import click, console_errors, load, orders, prefer, resize, rows, wait_for
from tests.report.conftest import HOSTILE, MANY, SECTIONS
from tests.report.records_factory import Plan, write_records

pytestmark = pytest.mark.browser


def test_no_console_error_and_every_section_is_there(opened):
    assert console_errors(opened) == []
    for section in SECTIONS:
        size = opened.execute_script(
            "return document.getElementById(arguments[0]).getBoundingClientRect().height", section
        )
        assert size > 100
    plots = opened.execute_script(
        "return [...document.querySelectorAll('.plot')].map(p => [p.id, p.querySelectorAll('.main-svg').length])"
    )
    assert len(plots) == 8
    assert all(count > 0 for _, count in plots)


def test_nothing_is_requested_from_the_network(opened):
    addresses = []
    for entry in opened.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            addresses.append(message["params"]["request"]["url"])
    assert any(address.startswith("file:") for address in addresses)
    outside = [
        address for address in addresses if not address.startswith(("file:", "data:", "blob:", "about:"))
    ]
    assert outside == []


def test_disagreements_come_first_and_columns_sort(opened):
    kinds = rows(opened, 5)
    assert kinds[0] == "arms disagree"
    click(opened, "#table-predictions thead th:nth-child(4)")
    up = orders(opened, 3)
    assert up == sorted(up)
    click(opened, "#table-predictions thead th:nth-child(4)")
    down = orders(opened, 3)
    assert down == sorted(down, reverse=True)
    assert up != down
    state = opened.execute_script(
        "return document.querySelector('#table-predictions th:nth-child(4)').ariaSort"
    )
    assert state == "descending"


def test_search_leaves_the_samples_that_fit(opened):
    field = opened.find_element("css selector", ".dt-search input")
    field.send_keys("#17")
    wait_for(opened, "return document.querySelectorAll('#table-predictions tbody tr').length === 1")
    assert rows(opened, 1) == ["17"]
    field.clear()
    field.send_keys("no such class")
    wait_for(
        opened,
        "return document.querySelector('#table-predictions tbody').textContent.includes('no sample fits')",
    )


@pytest.mark.parametrize("kind", ["mistakes", "disagreements"])
def test_filters_leave_the_rows_that_they_count(opened, kind):
    button = f'[data-filter="{kind}"]'
    count = int(
        opened.execute_script("return document.querySelector(arguments[0] + ' .count').textContent", button)
    )
    click(opened, button)
    shown = opened.execute_script("return document.querySelector('.dt-info').textContent")
    assert f"of {count} samples" in shown
    assert 0 < count < 60
    wrong = opened.execute_script(
        "return [...document.querySelectorAll('#table-predictions tbody tr')]"
        ".map(r => [r.dataset.kind, r.dataset.mistake])"
    )
    allowed = (
        {("disagreement", "yes")}
        if kind == "disagreements"
        else {("disagreement", "yes"), ("mistake", "yes")}
    )
    assert {tuple(pair) for pair in wrong} <= allowed
    pressed = opened.execute_script("return document.querySelector(arguments[0]).ariaPressed", button)
    assert pressed == "true"
    click(opened, '[data-filter="all"]')
    assert "of 60 samples" in opened.execute_script("return document.querySelector('.dt-info').textContent")


@pytest.mark.parametrize("width", [360, 768])
def test_no_horizontal_page_scroll(opened, page, width):
    resize(opened, width, 800)
    load(opened, page)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    wide = opened.execute_script(
        "return [...document.querySelectorAll('.plot')].map(p => p.getBoundingClientRect().right)"
    )
    assert max(wide) <= width


def test_many_arms_leave_room_for_the_plot_on_a_narrow_screen(browser, opened, tmp_path):
    plan = Plan(arms=(("none", None), *MANY), seeds=2, lrs=(0.1,), sites=("a",), samples=0)
    resize(opened, 360, 800)
    load(browser, write(write_records(tmp_path, plan)).as_uri())
    sizes = browser.execute_script(
        "return ['accuracy', 'loss', 'rates', 'percentiles'].map(name => { const s ="
        " document.getElementById('plot-' + name)._fullLayout;"
        " return [s._size.h, s.legend._height - s.legend._effHeight]; })"
    )
    assert min(height for height, _ in sizes) >= 180
    assert max(hidden for _, hidden in sizes) <= 1
    resize(browser, 1400, 1000)
    wait_for(browser, "return document.getElementById('plot-loss').clientHeight < 500")


def test_plots_fill_their_place_after_the_window_changes(opened):
    gaps = (
        "return [...document.querySelectorAll('.plot')].every(p => { const s = p.querySelector('.main-svg');"
        " return s.width.baseVal.value === p.clientWidth && s.height.baseVal.value === p.clientHeight; })"
    )
    assert opened.execute_script(gaps)
    for width in (700, 360, 1100):
        resize(opened, width, 800)
        wait_for(opened, f"return window.innerWidth === {width}")
        wait_for(opened, gaps)


def test_narrow_screens_show_whole_counts_and_stack_the_conditions(opened, page):
    def of(script):
        return opened.execute_script(script)

    bar = "return document.getElementById('plot-confusion-0')._fullData[0].showscale"
    assert of(bar) is True
    resize(opened, 360, 800)
    load(opened, page)
    assert of(bar) is False
    cell = of("return document.getElementById('plot-confusion-0')._fullLayout._size.w / 10")
    widths = of(
        "return [...document.querySelectorAll('#plot-confusion-0 .heatmap-label')]"
        ".map(e => e.getBoundingClientRect().width)"
    )
    assert len(widths) >= 10
    assert max(widths) <= cell
    right = "return Math.max(...[...document.querySelectorAll('.checks td')].map(e => e.getBoundingClientRect().right))"
    assert of(right) <= 360


def colours(browser):
    return browser.execute_script(
        "return [getComputedStyle(document.body).backgroundColor,"
        "document.querySelector('#plot-loss .xtitle').style.fill]"
    )


def test_dark_mode_applies_to_page_and_plots_while_open(opened):
    light = colours(opened)
    assert light[0] == "rgb(255, 255, 255)"
    prefer(opened, prefers_color_scheme="dark")
    wait_for(opened, "return document.getElementById('plot-loss').layout.font.color === '#e7eaee'")
    dark = colours(opened)
    assert dark[0] == "rgb(20, 23, 27)"
    assert dark[1] != light[1]
    line = "return getComputedStyle(document.querySelectorAll('#plot-loss .js-line')[arguments[0]]).stroke"
    assert "rgb(58, 159, 222)" in [opened.execute_script(line, i) for i in range(4)]
    prefer(opened, prefers_color_scheme="light")
    wait_for(opened, "return document.getElementById('plot-loss').layout.font.color === '#1b1f24'")


def test_print_opens_what_is_folded_and_is_light(opened):
    prefer(opened, prefers_color_scheme="dark")
    opened.execute_script(
        "window.seen = null; window.addEventListener('beforeprint', () => { window.seen = ["
        "document.querySelectorAll('details:not([open])').length,"
        "document.getElementById('plot-loss').layout.font.color,"
        "Math.max(...[...document.querySelectorAll('.plot .main-svg')].map(s => s.width.baseVal.value))]; })"
    )
    folded = opened.execute_script("return document.querySelectorAll('details:not([open])').length")
    assert folded > 3
    printed = opened.execute_cdp_cmd("Page.printToPDF", {})
    assert len(printed["data"]) > 50_000
    closed, colour, widest = opened.execute_script("return window.seen")
    assert (closed, colour) == (0, "#1b1f24")
    assert widest <= 700
    assert opened.execute_script("return document.querySelectorAll('details:not([open])').length") == folded


def test_no_motion_where_the_reader_asked_for_none(opened):
    prefer(opened, prefers_reduced_motion="reduce")
    assert opened.execute_script("return getComputedStyle(document.documentElement).scrollBehavior") == "auto"


def test_hostile_names_are_shown_and_never_run(browser, opened, tmp_path, hostile_plan):
    load(browser, write(write_records(tmp_path, hostile_plan)).as_uri())
    assert console_errors(browser) == []
    assert browser.execute_script("return window.pwned") is None
    assert browser.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
    assert HOSTILE in browser.execute_script("return document.querySelector('.command').textContent")
    assert HOSTILE in browser.execute_script(
        "return document.querySelector('#table-predictions').textContent"
    )
    assert HOSTILE[:12] in browser.execute_script(
        "return document.querySelector('#plot-confusion-0').textContent"
    )
    legend = browser.execute_script("return document.querySelector('#plot-loss .legend').textContent")
    assert HOSTILE[:12] in legend


@pytest.mark.parametrize(
    "plan",
    [
        Plan(finished=0),
        Plan(finished=4),
        Plan(diverge=[("none", None, None), ("batch", None, None)]),
        Plan(images=False),
    ],
    ids=["no run", "cut off", "all diverged", "tabular"],
)
def test_unusual_records_give_no_console_error(browser, opened, tmp_path, plan):
    load(browser, write(write_records(tmp_path, plan)).as_uri())
    assert console_errors(browser) == []
    assert browser.execute_script("return document.querySelectorAll('main > section').length") == len(
        SECTIONS
    )
