from batchnorm.lab.experiments import load
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "batch-size"
SMALLER = {"samples": 64, "epochs": 1}
BATCH = {2: 9.0, 4: 7.0, 8: 5.0, 64: 5.0}


def made(batch=None, group=5.0):
    """Records in which every error of an arm is the one given; seeds differ a little."""
    records = doctored(miniature(NAME, **SMALLER), {"test_error": 6.0, "validation_error": 5.0})
    for size, error in (batch or BATCH).items():
        for seed in range(3):
            records = doctored(
                records, {"test_error": error + 0.1 * seed * size}, arm="batch", batch=size, seed=seed
            )
    return doctored(records, {"test_error": group}, arm="group")


def test_contract():
    check(NAME, **SMALLER)


def test_verdict_turns():
    verdict = load(NAME).verdict
    found = verdict(made())
    assert found.verdict == "reproduced"
    # Seed by seed 4 + .1 s 2 - .1 s 8, so 3.4 on average.
    assert round(found.value, 6) == 3.4
    assert not found.surprise
    assert verdict(made(batch={**BATCH, 4: 9.5})).verdict == "partly"
    assert verdict(doctored(made(), {"test_error": 6.5}, arm="group", batch=64)).verdict == "partly"


def test_a_flat_error_is_not_reproduced_and_the_surprise_says_that_group_norm_is_no_better():
    flat = doctored(made(batch=dict.fromkeys(BATCH, 5.0)), {"test_error": 7.0}, arm="group", batch=64)
    found = load(NAME).verdict(flat)
    assert found.verdict == "not reproduced"
    assert "not clearly better" in found.surprise


def test_an_arm_that_trains_at_no_rate_meets_no_bound():
    lost = doctored(made(), {"test_error": None, "validation_error": None}, arm="group", batch=2)
    found = load(NAME).verdict(lost)
    assert found.verdict == "partly"
    assert "no rate trained" in found.checks[1].measured
    assert load(NAME).figures(lost)
