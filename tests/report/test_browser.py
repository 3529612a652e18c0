import json
import os
import shutil
import time

import pytest

from batchnorm.report import write
from tests.report.conftest import HOSTILE, MANY, SECTIONS
from tests.report.records_factory import Plan, write_records

pytestmark = pytest.mark.browser

PLAN = Plan(
    samples=60, seeds=3, levels={"none": 0.8, "batch": 0.9}, diverge=[("none", 1.0, None)],
    sites=tuple(f"block{i}.norm" for i in range(6)),
)  # fmt: skip
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1400,1000",
]  # fmt: skip


def _find(*names):
    return next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    binary, driver = _find("chromium", "chromium-browser", "google-chrome"), _find("chromedriver")
    if not (binary and driver):
        if os.environ.get("BATCHNORM_REQUIRE_BROWSER") == "1":
            pytest.fail("chromium and chromedriver are required and not on the PATH")
        pytest.skip("chromium or chromedriver is not on the PATH")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write(write_records(tmp_path_factory.mktemp("page"), PLAN)).as_uri()


def wait_for(browser, script, seconds=60):
    """Wait until a script returns something true, and return it."""
    end = time.monotonic() + seconds
    while not (found := browser.execute_script(script)):
        assert time.monotonic() < end, f"still false after {seconds} s: {script}"
        time.sleep(0.05)
    return found


@pytest.fixture
def opened(browser, page):
    """Open the page afresh, at its usual size and in the light theme."""
    browser.get_log("browser"), browser.get_log("performance")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    resize(browser, 1400, 1000)
    return load(browser, page)


def load(browser, address):
    browser.get(address)
    wait_for(browser, "return document.documentElement.dataset.ready === 'yes'")
    return browser


def resize(browser, width, height):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def prefer(browser, **features):
    chosen = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": chosen})


def click(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def console_errors(browser):
    return [
        entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
    ]


def rows(browser, cell):
    """Text of one column of the prediction table as it is shown."""
    return browser.execute_script(
        "return [...document.querySelectorAll('#table-predictions tbody tr')].map(r => r.cells[arguments[0]]"
        ".textContent.trim())",
        cell,
    )


def orders(browser, cell):
    return browser.execute_script(
        "return [...document.querySelectorAll('#table-predictions tbody tr')].map(r => +r.cells[arguments[0]]"
        ".dataset.order)",
        cell,
    )


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


def x_of(browser, plot):
    return browser.execute_script(
        "const p = document.getElementById(arguments[0]);"
        "return [p.layout.xaxis.title.text, p.data.find(t => t.uid === 'line-batch').x]",
        plot,
    )


def test_curves_switch_between_epochs_steps_and_seconds(opened):
    assert x_of(opened, "plot-loss") == ["epochs", [1, 2, 3, 4]]
    for value, title, xs in (
        ("step", "optimizer steps", [32, 64, 96, 128]),
        ("seconds", "training time (s)", None),
    ):
        click(opened, f'#curves input[value="{value}"]')
        for plot in ("plot-accuracy", "plot-loss"):
            found = x_of(opened, plot)
            assert found[0] == title
            assert found[1] == xs if xs else found[1][0] == pytest.approx(0.156)
    drawn = opened.execute_script("return document.querySelector('#plot-loss .xtitle').textContent")
    assert drawn == "training time (s)"


def visible_of(browser, plot, uid):
    found = "return document.getElementById(arguments[0])._fullData.find(t => t.uid === arguments[1]).visible"
    return browser.execute_script(found, plot, uid)


def test_what_the_legend_hides_stays_hidden_and_zoom_does_not_follow_to_another_axis(opened):
    # Sent to the element: a click at its coordinates misses it where a busy machine is still laying out the page.
    item = opened.find_elements("css selector", "#plot-loss .legendtoggle")[1]
    press = "for (const name of ['mousedown', 'mouseup'])"
    press += " arguments[0].dispatchEvent(new MouseEvent(name, {bubbles: true, button: 0}))"
    opened.execute_script(press, item)
    wait_for(
        opened,
        "return document.getElementById('plot-loss')._fullData.find(t => t.uid === 'line-batch').visible !== true",
    )
    zoomed = "Plotly.relayout('plot-loss', {'xaxis.range[0]': 2, 'xaxis.range[1]': 3})"
    opened.execute_script(zoomed)
    click(opened, '#curves input[value="step"]')
    assert visible_of(opened, "plot-loss", "line-batch") == "legendonly"
    assert visible_of(opened, "plot-loss", "band-batch") == "legendonly"
    assert visible_of(opened, "plot-loss", "line-none") is True
    assert (
        opened.execute_script("return document.getElementById('plot-loss')._fullLayout.xaxis.range[1]") > 100
    )


def test_the_axis_can_be_chosen_with_the_keyboard(opened):
    from selenium.webdriver.common.keys import Keys

    radio = opened.find_element("css selector", '#curves input[value="epoch"]')
    opened.execute_script("arguments[0].focus()", radio)
    radio.send_keys(Keys.ARROW_RIGHT)
    assert x_of(opened, "plot-loss")[0] == "optimizer steps"


def test_training_numbers_bring_their_own_table(opened):
    script = (
        "return [...document.querySelectorAll('#figure-loss [data-when]')].filter(e => !e.hidden)"
        ".map(e => e.querySelector('caption').textContent)"
    )
    assert opened.execute_script(script) == ["Validation loss by epoch"]
    click(opened, '#curves input[value="train"]')
    assert opened.execute_script(script) == ["Training loss by epoch"]


def test_a_site_is_chosen_from_a_list_and_changes_titles_and_plots(opened):
    titles = "return [...document.querySelectorAll('#distributions h3')].filter(e => !e.hidden).map(e => e.textContent)"
    before = opened.execute_script(titles)
    assert len(before) == 2
    opened.execute_script(
        "const s = document.getElementById('sites-site'); s.value = '5'; s.dispatchEvent(new Event('change'))"
    )
    after = opened.execute_script(titles)
    assert all("block0.norm" in title for title in before)
    assert all("block5.norm" in title for title in after)
    label = opened.execute_script("return document.getElementById('plot-percentiles').ariaLabel")
    assert label.startswith(after[0])


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
