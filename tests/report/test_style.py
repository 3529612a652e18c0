import re
from importlib import resources

import pytest

from batchnorm.records.identity import IDENTITIES

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


def test_print_motion_and_images_are_looked_after():
    assert "@media print" in CSS
    assert "prefers-reduced-motion: reduce" in CSS
    assert "image-rendering: pixelated" in CSS
    assert "url(" not in CSS
    assert "@import" not in CSS
