"""The figures in a browser: axes, legends, sites, and their tables."""

import pytest

from tests.report.browsing import click, wait_for

pytestmark = pytest.mark.browser


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
