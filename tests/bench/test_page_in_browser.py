"""The page of `batchnorm bench` in headless Chromium."""

import pytest

from batchnorm.bench.page import write
from tests.bench.records_factory import record, results, step
from tests.report.browsing import browser, click, console_errors, load, resize  # noqa: F401 (fixture)

pytestmark = pytest.mark.browser


@pytest.fixture
def opened(browser, tmp_path):  # noqa: F811
    lines = [
        record(shape, phase, act=act, layout=layout, torch=ratio)
        for shape, ratio in (((16, 64, 112, 112), 4.2), ((16, 512, 7, 7), 0.9))
        for phase in ("forward", "forward_backward", "evaluation")
        for act in ("relu", None)
        for layout in ("contiguous", "channels_last")
    ]
    browser.get_log("browser")
    resize(browser, 1400, 1000)
    return load(browser, write(results(*lines, step()), tmp_path).as_uri())


def finding(opened):
    return opened.execute_script(
        "return document.querySelector('#figure-ratios .finding:not([hidden])').textContent"
    )


def test_figures_are_drawn_and_follow_the_reader(opened):
    assert console_errors(opened) == []
    drawn = opened.execute_script(
        "return [...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('.main-svg').length > 0)"
    )
    assert drawn == [True, True]
    assert (
        finding(opened).replace("\u00a0", " ")
        == "BN+act: 1.94 times as fast as torch over 2 shapes, 1 slower"
    )
    click(opened, '.controls [data-control="pass"] input[value="evaluation"]')
    shown = opened.execute_script(
        "return [...document.querySelectorAll('#figure-ratios [data-when]:not([hidden])')].map(p => p.dataset.when)"
    )
    assert shown
    assert set(shown) == {"pass=evaluation&form=contiguous-float32"}


@pytest.mark.parametrize("width", [360, 1400])
def test_the_page_is_never_wider_than_the_window(opened, width):
    resize(opened, width, 900)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
