"""The pictures of the docs: those that the Makefile draws, each shown once with words for who cannot see it."""

import re
import struct
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from batchnorm.report.framing import THEMES, WIDTH

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/explanation/pictures.md"
IMAGES = ROOT / "docs/images/lab"


def variable(name):
    return re.search(rf"^{name} := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[
        1
    ].split()


PICTURES = variable("PICTURES")


def test_the_folder_holds_what_the_makefile_draws():
    files = {f"{name}{end}" for name in PICTURES for end in (".svg", ".png", "-dark.svg")}
    assert {path.name for path in IMAGES.iterdir()} == files


def test_the_makefile_runs_the_claims_that_it_draws_and_no_more():
    claims = variable("CLAIMS")
    drawn_by = {name: [claim for claim in claims if name.startswith(f"{claim}-")] for name in PICTURES}
    assert all(drawn_by.values())
    assert {claim for found in drawn_by.values() for claim in found} == set(claims)


@pytest.mark.parametrize("name", PICTURES)
def test_each_stands_in_a_section_with_its_command_source_and_limits(name):
    text = PAGE.read_text(encoding="utf-8")
    (section,) = (part for part in text.split("\n## ") if f"/{name}.svg" in part)
    assert f'srcset="../images/lab/{name}-dark.svg"' in section
    (alt,) = re.findall(rf'<img src="../images/lab/{name}.svg" alt="([^"]*)"', section)
    assert len(alt.split()) >= 15
    assert f"`batchnorm lab pictures {name}`" in section
    for part in ("- **Made by** `batchnorm lab run ", "- **After** ", "- **It does not show** "):
        assert section.count(part) == 1


@pytest.mark.parametrize("name", PICTURES)
def test_each_is_of_one_size_and_theme(name):
    roots = [ElementTree.parse(IMAGES / f"{name}{end}.svg").getroot() for end in ("", "-dark")]
    light, dark = roots
    for root, theme in zip(roots, THEMES.values(), strict=True):
        assert root.get("width") == str(WIDTH)
        red, green, blue = (int(theme.page[i : i + 2], 16) for i in (1, 3, 5))
        ground = root.find("{http://www.w3.org/2000/svg}rect").get("style")
        assert f"fill: rgb({red}, {green}, {blue}); fill-opacity: 1;" in ground
    assert "".join(light.itertext()) == "".join(dark.itertext())
    png = (IMAGES / f"{name}.png").read_bytes()
    assert struct.unpack(">II", png[16:24]) == (2 * WIDTH, 2 * int(light.get("height")))
