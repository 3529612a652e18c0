import colorsys
import re
from importlib import resources

import pytest

from batchnorm.records.identity import IDENTITIES
from batchnorm.report.drawing import dark_colours

CSS = (resources.files("batchnorm.report") / "templates" / "style.css").read_text(encoding="utf-8")
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
)


def contrast(first, second):
    """Contrast ratio of the Web Content Accessibility Guidelines, 1 to 21."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["ink", "soft", "accent", "hit", "miss"])
def test_text_has_aa_contrast(theme, name):
    assert contrast(theme[name], theme["page"]) >= 4.5


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_the_chosen_button_has_aa_contrast(theme):
    assert contrast(theme["page"], theme["accent"]) >= 4.5


def test_both_themes_set_the_same_colours():
    assert LIGHT.keys() == DARK.keys()


def test_arms_differ_in_more_than_colour():
    looks = list(IDENTITIES.values())
    for field in ("colour", "dash", "marker"):
        assert len({getattr(look, field) for look in looks}) == len(looks)
    assert list(IDENTITIES)[:6] == ["none", "batch", "layer", "group", "instance", "local"]
    assert (IDENTITIES["batch"].colour, IDENTITIES["batch"].dash, IDENTITIES["batch"].marker) == (
        "#0072B2", "solid", "square",
    )  # fmt: skip


@pytest.mark.parametrize("arm", IDENTITIES)
def test_lines_stand_out_on_a_dark_page_and_keep_their_hue(arm):
    look = IDENTITIES[arm]
    assert contrast(look.dark, DARK["page"]) >= 4.5
    light, dark = (
        colorsys.rgb_to_hls(*(int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)))
        for c in (look.colour, look.dark)
    )
    assert dark[1] > light[1]
    assert abs(dark[0] - light[0]) * 360 <= 12


def test_bands_are_stronger_on_a_dark_page(view):
    colours = dark_colours(view().arms)
    assert colours["#0072B2"] == IDENTITIES["batch"].dark
    assert colours["rgba(0,114,178,0.18)"] == "rgba(58,159,222,0.3)"
    assert len({look.dark for look in IDENTITIES.values()}) == len(IDENTITIES)


def test_print_motion_and_images_are_looked_after():
    assert "@media print" in CSS
    assert "prefers-reduced-motion: reduce" in CSS
    assert "image-rendering: pixelated" in CSS
    assert "url(" not in CSS
    assert "@import" not in CSS
