"""A published claim: what it says, who said it, and by which criterion a re-run is judged."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Claim", "Source"]


@dataclass(frozen=True)
class Source:
    """Where a claim was published: the citation in words, and its address."""

    citation: str
    link: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a page says of a claim before anything has been run.

    Args:
        number: its place in the survey, from 1.
        name: as typed on the command line, such as `faster-training`.
        title: the question, ending in a question mark.
        claim: what was published, in one sentence.
        source: where.
        published: the published numbers, in words.
        method: what is run here in its place, in one to three sentences: network, data, steps, tuning.
        criterion: when the claim counts as reproduced, with every threshold. Written before the runs.
        does_not_show: what the re-run leaves open, in one or two sentences.
        arms: each arm's name, and what a sentence calls it: `{"none": "no normalization"}`.
    """

    number: int
    name: str
    title: str
    claim: str
    source: Source
    published: str
    method: str
    criterion: str
    does_not_show: str
    arms: Mapping[str, str]
