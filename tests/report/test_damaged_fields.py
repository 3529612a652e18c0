"""Records whose fields are null, missing or of another kind: the page says less, and does not break."""

import copy
import random

import pytest

from batchnorm.report import render
from tests.report.records_factory import Plan, records

JUNK = [None, "x", -1, 0, 1e300, True, [], {}, [None], "</script>", float("nan")]
PLAN = Plan(samples=6, epochs=2, seeds=2, lrs=(0.1, 1.0), sites=("a",), diverge=[("none", 1.0, 0)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return records(tmp_path_factory.mktemp("records"), PLAN)


def lines(made):
    yield made.config
    yield made.config["settings"]
    yield made.data
    yield from made.samples
    for run in made.runs.values():
        yield from [run.header, *run.epochs, *run.activations, run.final]
        yield from [run.prediction] if run.prediction else []
        yield from (line["histogram"] for line in run.activations if "histogram" in line)


@pytest.mark.parametrize("seed", range(40))
def test_a_page_comes_out_whatever_three_fields_hold(made, seed):
    rng = random.Random(seed)
    broken = copy.deepcopy(made)
    every = list(lines(broken))
    for name in rng.sample(sorted({name for line in every for name in line}), 3):
        junk, share = rng.choice(JUNK), rng.choice([1.0, 0.3])
        for line in every:
            if name in line and rng.random() < share:
                line[name] = junk
    assert render(broken).count('<section id="') == 9
