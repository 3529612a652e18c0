"""The page of one claim: its answer first, then the criterion part by part, what was seen, and where it comes from."""

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from batchnorm.records.intervals import Interval
from batchnorm.records.judged import Judged
from batchnorm.records.tables import Table
from batchnorm.records.verdict import NOT_REPRODUCED, PARTLY, REPRODUCED
from batchnorm.records.wording import MISSING, count, duration, plain_interval, seeds
from batchnorm.report.assets import stylesheet, text_asset
from batchnorm.report.drawing import dark_colours
from batchnorm.report.figure import script_json
from batchnorm.report.filling import fill
from batchnorm.report.phrases import listed
from batchnorm.report.plots import Look, chart_figure, looks_of
from batchnorm.report.provenance import facts_of, written

__all__ = ["ATLAS_NAME", "PLOTLY_NAME", "Entry", "page_name", "render_claim"]

ATLAS_NAME, PLOTLY_NAME = "atlas.html", "plotly.min.js"
WORDS = {REPRODUCED: "Reproduced", PARTLY: "Reproduced in part", NOT_REPRODUCED: "Not reproduced"}


def page_name(judged: Judged) -> str:
    """Return the file name of a claim's page."""
    return f"{judged.claim.name}.html"


@dataclass(frozen=True)
class Entry:
    """A claim in words, as its page and the atlas both say them."""

    judged: Judged

    @property
    def status(self) -> str:
        """The verdict, or how far the runs have got."""
        if self.judged.verdict is not None:
            return WORDS[self.judged.verdict.verdict]
        if self.judged.planned:
            return f"Unfinished: {self.judged.finished} of {self.judged.planned} runs"
        return "Not run"

    @property
    def kind(self) -> str:
        """The class that decides the sign and colour of the status."""
        found = self.judged.verdict
        return (
            {REPRODUCED: "yes", NOT_REPRODUCED: "no", PARTLY: "partly"}[found.verdict] if found else "unknown"
        )

    @property
    def number(self) -> str:
        """The claim's number with its interval and unit."""
        found = self.judged.verdict
        if found is None or found.value is None:
            return MISSING
        return f"{plain_interval(Interval(found.value, found.low, found.high, 0))} {found.unit}"

    @property
    def lead(self) -> Markup:
        """The answer: the verdict, what was asked for and not met, and what was found."""
        found = self.judged.verdict
        return self.brief if found is None else Markup("{} {}").format(self.brief, found.finding)

    @property
    def brief(self) -> Markup:
        """The verdict, and what was asked for and not met: the answer for those who read of all claims."""
        found = self.judged.verdict
        if found is None:
            done = f"{self.judged.finished} of {self.judged.planned} runs have finished"
            return Markup("<strong>No verdict yet.</strong> {}; the same command does the rest.").format(done)
        if found.verdict == REPRODUCED:
            return Markup("<strong>Reproduced.</strong>")
        missed = listed(
            [f"“{check.text}” (measured: {check.measured})" for check in found.checks if not check.holds]
        )
        if found.verdict == PARTLY:
            return Markup("<strong>Reproduced only in part.</strong> Not met: {}.").format(missed)
        return Markup("<strong>Not reproduced.</strong> The criterion was not met: {}.").format(missed)

    @property
    def warnings(self) -> list[str]:
        """What stands before the answer: a number that contradicts the paper, then what else to know."""
        found = self.judged.verdict
        said = (
            [("Against the paper", found.contradiction), ("Beside the criterion", found.surprise)]
            if found
            else []
        )
        return [f"{kind}: {text}" for kind, text in said if text]

    @property
    def quick(self) -> str:
        """What a quick run is, or nothing where it was run in full."""
        if not self.judged.quick:
            return ""
        n = seeds(int(self.judged.settings.get("seeds") or 0))
        return f"Quick: {n} and short runs, judged by the same criterion."

    @property
    def cost(self) -> str:
        """The run time."""
        if not self.judged.finished:
            return MISSING
        return f"{duration(self.judged.seconds)} on one core, {count(self.judged.finished)} runs"

    @property
    def repeats(self) -> str:
        """Seeds and data."""
        settings = self.judged.settings
        if not settings:
            return MISSING
        data = settings.get("data")
        return seeds(int(settings.get("seeds") or 0)) + (f", {data}" if data else ", numbers drawn at random")


def render_claim(judged: Judged) -> str:
    """Draw the page of a claim: the same records give the same bytes.

    Args:
        judged: a claim of which at least one run was planned.

    Returns:
        A whole HTML document that loads `plotly.min.js` from its own folder and asks the network for nothing.
    """
    return fill("claim.html", _context(judged))


def _context(judged: Judged) -> dict[str, Any]:
    found = judged.verdict
    identities = looks_of(judged.claim.arms, judged.charts)
    return {
        "claim": judged.claim,
        "entry": Entry(judged),
        "checks": found.checks if found else (),
        "figures": [chart_figure(chart, identities, judged.claim.arms) for chart in judged.charts],
        "arms": [(arm, words) for arm, words in judged.claim.arms.items() if arm != words],
        "command": str(judged.config.get("command") or ""),
        "facts": _facts(judged),
        "atlas": ATLAS_NAME,
        "plotly_name": PLOTLY_NAME,
        "dark_colours": script_json(dark_colours([Look(arm, look) for arm, look in identities.items()])),
        "style": stylesheet(),
        "script": text_asset("page.js"),
    }


def _facts(judged: Judged) -> list[Table]:
    runs = [
        ["runs", f"{count(judged.finished)} finished of {count(judged.planned)} planned"],
        ["time of all runs", Entry(judged).cost],
    ]
    settings = {name: value for name, value in judged.settings.items() if value is not None}
    return [
        Table("The runs", ["what", "value"], facts_of(judged.config) + runs, text_columns=2),
        Table("Settings", ["setting", "value"], written(settings), text_columns=2),
        Table("Versions", ["software", "version"], written(judged.config.get("versions")), text_columns=2),
    ]
