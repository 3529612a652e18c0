from batchnorm.lab.experiments import load
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "ghost-batch-norm"
SMALLER = {"samples": 128, "steps": 4}


def made(ghost, small=4.0):
    """Records in which batch norm's error is 5, and a little of each seed's own for ghost batch norm."""
    records = doctored(miniature(NAME, **SMALLER), {"test_error": 5.0, "validation_error": 5.0})
    for seed in range(6):
        records = doctored(records, {"test_error": ghost + 0.1 * seed}, arm="ghost", seed=seed)
    return doctored(records, {"test_error": small}, arm="small")


def test_contract():
    check(NAME, **SMALLER)


def test_every_arm_has_as_many_updates_and_rates_that_grow_with_the_root_of_the_batch():
    tasks = load(NAME).plan(load(NAME).scale(quick=True))
    assert len({task["steps"] for task in tasks}) == 1
    rates = {(task.arm, task["batch"]): [] for task in tasks if task.seed == 0}
    for task in tasks:
        if task.seed == 0:
            rates[task.arm, task["batch"]].append(task["lr"])
    assert rates["batch", 1024] == rates["ghost", 1024]
    for large, small in zip(rates["batch", 1024], rates["small", 32], strict=True):
        assert abs(large / small - 32**0.5) < 0.01


def test_verdict_turns():
    verdict = load(NAME).verdict
    found = verdict(made(4.0))
    assert found.verdict == "reproduced"
    assert round(found.value, 6) == 0.75
    assert not found.surprise
    assert verdict(made(4.8)).verdict == "not reproduced"
    assert "Ghost batch norm did worse" in verdict(made(6.0)).contradiction
    assert "no loss of large batches" in verdict(made(4.0, small=6.0)).surprise


def test_runs_that_diverged_meet_no_bound():
    lost = doctored(made(4.0), {"test_error": None, "validation_error": None}, arm="ghost")
    found = load(NAME).verdict(lost)
    assert (found.verdict, found.value) == ("not reproduced", None)
    assert load(NAME).figures(lost)
