import numpy as np
import pytest

from batchnorm.lab.experiments import dropout_shift as module
from batchnorm.lab.experiments import load
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "dropout-shift"
SMALLER = {"steps": 12}


def test_contract():
    check(NAME, **SMALLER)


def records(plain, dropped, recalibrated):
    """All rates alike but .1, which validation prefers; each seed a little different."""
    lines = miniature(NAME, **SMALLER)
    cases = {
        ("batch", "trained"): plain,
        ("batch", "recalibrated"): plain,
        ("dropout", "trained"): dropped,
        ("dropout", "recalibrated"): recalibrated,
    }
    for (arm, state), test in cases.items():
        lines = doctored(lines, {"validation": 0.5, "test": 0.1}, arm=arm, state=state)
        for seed in range(5):
            change = {"validation": 0.6, "test": test + 0.001 * seed}
            lines = doctored(lines, change, arm=arm, state=state, lr=0.1, seed=seed)
    return lines


@pytest.mark.parametrize(
    ("tests", "holds", "verdict", "surprise"),
    [
        ((0.98, 0.90, 0.95), [True, True, True], "reproduced", False),
        ((0.98, 0.90, 0.93), [True, True, False], "partly", True),
        ((0.98, 0.90, 0.80), [True, True, False], "partly", True),
        ((0.90, 0.95, 0.99), [True, False, False], "partly", True),
    ],
)
def test_verdict_turns(tests, holds, verdict, surprise):
    found = load(NAME).verdict(records(*tests))
    assert [part.holds for part in found.checks] == holds
    assert found.verdict == verdict
    assert bool(found.surprise) is surprise


def test_nothing_holds_where_the_shift_is_off_too():
    lines = records(0.9, 0.95, 0.95)
    for kept in module.KEPT:
        one = doctored(lines, {"measured": lambda old: old * 1.02}, arm="shift", kept=kept)
        assert load(NAME).verdict(one).verdict == "not reproduced"
    gone = doctored(lines, {"measured": None}, arm="shift", kept=0.7, seed=1)
    assert load(NAME).verdict(gone).verdict == "not reproduced"


def test_a_run_that_diverged_at_the_best_rate_closes_no_gap():
    lines = records(0.98, 0.90, 0.95)
    lines = doctored(lines, {"validation": None, "test": None, "shifts": None}, arm="dropout", lr=0.1, seed=0)
    lines = doctored(lines, {"validation": 0.1}, arm="dropout", lr=0.3)
    lines = doctored(lines, {"validation": 0.1}, arm="dropout", lr=0.03)
    lines = doctored(lines, {"validation": 0.1}, arm="dropout", lr=1.0)
    assert [part.holds for part in load(NAME).verdict(lines).checks] == [True, False, False]
    assert load(NAME).figures(lines)


def test_the_formula_is_that_of_the_paper():
    assert [round(module._formula(kept), 3) for kept in module.KEPT] == [0.405, 0.613, 0.86]


def test_the_shift_is_that_of_values_drawn_by_numpy():
    draw = np.random.default_rng(0)
    values = draw.normal(module.MEAN, module.VAR**0.5, 2_000_000)
    for kept in module.KEPT:
        dropped = values * (draw.random(values.shape) < kept) / kept
        shift = values.var() / dropped.var()
        measured = [line["measured"] for line in miniature(NAME, **SMALLER) if line.get("kept") == kept]
        assert measured == pytest.approx([shift] * len(measured), rel=0.01)


def test_recalibration_brings_the_running_variance_to_what_evaluation_has():
    lines = [line for line in miniature(NAME, **SMALLER) if line["arm"] == "dropout" and line["lr"] == 0.1]
    for line in lines:
        if line["state"] == "recalibrated":
            assert line["shifts"] == pytest.approx([1.0] * module.HIDDEN_LAYERS, abs=0.15)
        else:
            assert line["shifts"][-1] < 0.85
