import re

import pytest

from batchnorm.records.charts import Axis, Chart, Curve, Panel
from batchnorm.records.claim import Source
from batchnorm.records.judged import Judged
from batchnorm.report.atlas import render_atlas, write
from batchnorm.report.claim_page import render_claim
from tests.report.browsing import browser, console_errors, load, resize  # noqa: F401 (a fixture)
from tests.report.conftest import HOSTILE
from tests.report.judged_factory import CHARTS, claim, judged, verdict


def words(page, start="<main>", end="</main>"):
    inner = page[page.index(start) : page.index(end)]
    return re.sub(
        r"\s+",
        " ",
        re.sub(r"<script.*?</script>|<[^>]+>", " ", inner, flags=re.DOTALL).replace("\u00a0", " "),
    )


IN_ORDER = """Is the landscape smoother?
Reproduced. It was 3.25 times as smooth.
What this does not show. What happens in large ones.
Claim It is smoother.
Source A. Author, 2018
Published Twice as smooth, figure 1.
Run here A small network on digits.
Our number 3.25 times
Repeated 5 seeds, digits
Cost 90.0 s on one core, 10 runs
At least 2 times.
part 0 of the criterion ✓ yes 0.5 (5 seeds)
batchnorm lab run smoother"""


def test_a_page_says_the_answer_then_what_it_does_not_show_then_everything_asked_for():
    page = words(render_claim(judged(verdict(True, True))))
    places = [page.index(text) for text in IN_ORDER.splitlines()]
    assert places == sorted(places)
    assert 'href="https://example.org/paper"' in render_claim(judged(verdict(True)))


@pytest.mark.parametrize(
    ("held", "lead"),
    [
        ([True, False],
         "Reproduced only in part. Not met: “part 1 of the criterion” (measured: 1.5 (5 seeds)). It was"),
        ([False, False], "Not reproduced. The criterion was not met: "
                         "“part 0 of the criterion” (measured: 0.5 (5 seeds)) and “part 1"),
    ],
)  # fmt: skip
def test_what_was_not_met_is_said_first(held, lead):
    page = words(render_claim(judged(verdict(*held))))
    assert f"claim 4 Is the landscape smoother? {lead}" in page
    assert "✗ no" in page


def test_only_a_contradiction_is_said_to_be_against_the_paper_and_both_stand_before_the_answer():
    found = verdict(False, contradiction="It was rougher.", surprise="It rests on one seed.")
    page = words(render_claim(judged(found)))
    said = ["Against the paper: It was rougher.", "Beside the criterion: It rests on one seed."]
    places = [page.index(text) for text in [*said, "Not reproduced."]]
    assert places == sorted(places)
    assert "gainst the paper" not in words(render_claim(judged(verdict(False, surprise="It was not shown."))))
    assert "ontradict" not in words(render_claim(judged(verdict(False))))


def test_the_atlas_begins_with_what_was_not_met_and_leaves_the_findings_to_the_pages():
    atlas = words(render_atlas([judged(verdict(False))]))
    assert (
        "Not reproduced. The criterion was not met: “part 0 of the criterion” (measured: 0.5 (5 seeds))."
        in atlas
    )
    assert verdict(False).finding not in atlas
    assert verdict(False).finding in words(render_claim(judged(verdict(False))))


def test_quick_is_marked_on_page_and_atlas():
    assert "claim 4 · quick" in words(render_claim(judged(verdict(True), quick=True)))
    assert "Quick: 5 seeds and short runs" in words(render_claim(judged(verdict(True), quick=True)))
    assert "uick" not in words(render_claim(judged(verdict(True)))).partition("How it was made")[0]
    atlas = words(
        render_atlas([judged(verdict(True), quick=True), judged(verdict(True), name="other", number=5)])
    )
    assert "1 of 2 quick" in atlas
    assert atlas.count("Reproduced (quick)") == 2


def test_unfinished_runs_have_no_verdict_and_no_figures():
    page = words(render_claim(judged(None, finished=3)))
    assert "No verdict yet. 3 of 10 runs have finished" in page
    assert "Nothing is drawn before every planned run has finished." in page


def test_the_atlas_lists_every_claim_and_puts_those_not_met_first():
    listed = [
        judged(verdict(True), number=1, name="one", title="Is one so?"),
        judged(verdict(False), number=2, name="two", title="Is two so?"),
        Judged(claim(number=3, name="three", title="Is three so?")),
    ]
    page = render_atlas(listed)
    text = words(page)
    assert "Of 2 claims run again here, 1 reproduced and 1 not reproduced ." in text
    assert text.index("Is two so? Not reproduced. The criterion was not met") < text.index("Is one so?")
    assert 'href="two.html"' in page
    assert 'href="three.html"' not in page
    assert "– Not run" in text
    for field in ("Verdict", "Claim", "Source", "Published", "Our number", "Criterion", "Run time"):
        assert page.count(f"<dt>{field}</dt>") == 3


def test_the_same_claims_give_the_same_bytes_and_share_one_script(tmp_path):
    every = [judged(verdict(True)), judged(verdict(False), number=5, name="other")]
    write(tmp_path, every)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(files) == {"atlas.html", "plotly.min.js", "smoother.html", "other.html"}
    assert max(len(text) for name, text in files.items() if name.endswith("html")) < 100_000
    (tmp_path / "plotly.min.js").write_text("torn")
    assert write(tmp_path, every) == tmp_path / "atlas.html"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_markup_in_the_words_stays_text():
    chart = Chart(
        "x",
        HOSTILE,
        HOSTILE,
        [Panel([Curve(HOSTILE, (1,), (1.0,), label=HOSTILE)], Axis(HOSTILE), Axis("y"), title=HOSTILE)],
    )
    hostile = judged(
        verdict(False, contradiction=HOSTILE, surprise=HOSTILE), charts=[chart], claim=HOSTILE, published=HOSTILE,
        arms={HOSTILE: HOSTILE},
        source=Source(HOSTILE, "https://example.org"),
    )  # fmt: skip
    for page in (render_claim(hostile), render_atlas([hostile])):
        assert HOSTILE not in page
        assert page.count("<script") == page.count("</script>")
        assert "<img src=x" not in page


@pytest.mark.browser
def test_the_pages_draw_in_a_browser_without_an_error(browser, tmp_path):  # noqa: F811
    path = write(tmp_path, [judged(verdict(True, False))])
    for width in (1400, 360):
        resize(browser, width, 900)
        load(browser, (tmp_path / "smoother.html").as_uri())
        drawn = browser.execute_script(
            "return [...document.querySelectorAll('.plot')].map(p => !!p.querySelector('svg.main-svg'))"
        )
        assert drawn == [True] * len(CHARTS)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        load(browser, path.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert console_errors(browser) == []
