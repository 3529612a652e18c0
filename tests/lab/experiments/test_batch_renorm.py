from batchnorm.lab.experiments import load
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "batch-renorm"
SMALLER = {"samples": 64, "epochs": 1}


def made(small, large):
    """Records in which batch norm's error is 5 and batch renormalization's differs so much, a little more each seed."""
    records = doctored(miniature(NAME, **SMALLER), {"test_error": 5.0, "validation_error": 5.0})
    for batch, difference in ((4, small), (64, large)):
        for seed in range(6):
            error = 5.0 + difference + 0.1 * seed
            records = doctored(records, {"test_error": error}, arm="renorm", batch=batch, seed=seed)
    return records


def test_contract():
    check(NAME, **SMALLER)


def test_verdict_turns():
    verdict = load(NAME).verdict
    found = verdict(made(-2.0, 0.0))
    assert found.verdict == "reproduced"
    assert round(found.value, 6) == -1.75
    assert verdict(made(-2.0, 0.9)).verdict == "partly"
    assert verdict(made(-0.2, 0.0)).verdict == "partly"
    assert verdict(made(-0.2, -2.0)).verdict == "not reproduced"
    assert not found.contradiction
    assert "worse" in verdict(made(1.0, 0.0)).contradiction


def test_runs_that_diverged_meet_no_bound():
    lost = doctored(made(-2.0, 0.0), {"test_error": None, "validation_error": None}, arm="renorm")
    found = load(NAME).verdict(lost)
    assert (found.verdict, found.value) == ("not reproduced", None)
    assert load(NAME).figures(lost)
