"""A claim with all that its page says: what was run, what came out, the verdict, and the figures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from batchnorm.records.charts import Chart
from batchnorm.records.claim import Claim
from batchnorm.records.store import Line
from batchnorm.records.verdict import Verdict

__all__ = ["Judged"]


@dataclass(frozen=True)
class Judged:
    """A claim and its runs in one folder.

    Args:
        claim: what was published.
        config: the `config` line of the claim's records; empty where it was not run.
        planned, finished: numbers of runs.
        seconds: how long the finished runs took, added up; each computes on one core.
        verdict: None until every planned run has finished.
        charts: empty until then.
    """

    claim: Claim
    config: Line = field(default_factory=dict)
    planned: int = 0
    finished: int = 0
    seconds: float = 0.0
    verdict: Verdict | None = None
    charts: Sequence[Chart] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """What decided the numbers."""
        found = self.config.get("settings")
        return found if isinstance(found, dict) else {}

    @property
    def quick(self) -> bool:
        """Whether it was run with `--quick`."""
        return bool(self.settings.get("quick"))

    def verdict_line(self) -> Line:
        """The line of `verdicts.jsonl`; there must be a verdict."""
        assert self.verdict is not None
        return {
            "claim": self.claim.number,
            "name": self.claim.name,
            "verdict": self.verdict.verdict,
            "value": self.verdict.value,
            "low": self.verdict.low,
            "high": self.verdict.high,
            "criterion": self.claim.criterion,
            "unit": self.verdict.unit,
            "quick": self.quick,
            "seeds": self.settings.get("seeds"),
            "data": self.settings.get("data"),
        }
