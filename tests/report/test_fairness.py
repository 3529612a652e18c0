from batchnorm.report.fairness import checks, rates_table


def verdicts(view):
    return {check.question: check.holds for check in checks(view)}


def test_a_fair_comparison(view):
    assert set(verdicts(view()).values()) == {True}


def test_different_initial_weights_are_found(view):
    made = view()
    made.arms[1].best[1].header["initial_weights"] = "other"
    check = checks(made)[1]
    assert check.holds is False
    assert "differ between arms for seed 1" in check.detail


def test_unrecorded_weights_are_unknown_and_not_fine(view):
    made = view()
    del made.arms[0].best[0].header["initial_weights"]
    assert checks(made)[1].holds is None


def test_an_edge_of_the_grid_is_said(view):
    check = next(
        check for check in checks(view(lrs=(0.01, 0.1))) if check.question == "Best rate inside the grid"
    )
    assert check.holds is False
    assert "none at the upper end (0.1) and batch at the upper end (0.1)" in check.detail


def test_one_rate_is_not_tuned(view):
    found = verdicts(view(lrs=(0.1,)))
    assert found["Learning rate tuned for each arm"] is False
    assert found["Best rate inside the grid"] is None


def test_an_interrupted_comparison_is_not_tuned_yet(view):
    found = verdicts(view(finished=16))
    assert found["Learning rate tuned for each arm"] is False


def test_missing_seeds_are_said(view):
    made = view(finished=16)
    check = checks(made)[2]
    assert check.holds is True  # at the best rates all seeds ran
    assert verdicts(view(finished=14))["Same seeds for all arms"] is False


def test_without_runs_nothing_is_claimed(view):
    found = verdicts(view(finished=0))
    assert found["Same initial weights where shapes agree"] is None
    assert found["Learning rate tuned for each arm"] is None


def test_the_table_of_rates(view):
    rows = rates_table(view()).rows
    assert rows == [["none", "0.01, 0.1, 1", "0.1", "inside"], ["batch", "0.01, 0.1, 1", "0.1", "inside"]]
