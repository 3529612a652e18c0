"""A page in headless Chromium, and what tests ask of it."""

import os
import shutil
import time

import pytest

from batchnorm.report import write
from tests.report.records_factory import Plan, write_records

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


def _installed():
    """The browser and its driver; a test that needs them is skipped, or fails, without."""
    binary, driver = _find("chromium", "chromium-browser", "google-chrome"), _find("chromedriver")
    if not (binary and driver):
        if os.environ.get("BATCHNORM_REQUIRE_BROWSER") == "1":
            pytest.fail("chromium and chromedriver are required and not on the PATH")
        pytest.skip("chromium or chromedriver is not on the PATH")
    return binary, driver


@pytest.fixture(scope="module")
def chromium():
    """The path of the browser, for tests that start it in another way than `browser`."""
    return _installed()[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    binary, driver = _installed()
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
