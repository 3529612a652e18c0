from batchnorm.report.fairness import checks, rates_table


def verdicts(view):
    return {check.question: check.holds for check in checks(view)}


def test_a_fair_comparison(view):
    found = checks(view())
    assert [check.question for check in found if check.holds is not True] == ["Test set kept for the end"]
    assert [check.question for check in found if check.construction] == ["Test set kept for the end"]


def first(view, question):
    return next(check for check in checks(view) if check.question == question)


def test_other_data_than_the_settings_name_is_found(view):
    made = view()
    made.records.data["digest"] = "e" * 64
    check = first(made, "Same data for all arms")
    assert check.holds is False
    assert "eeeeeeeeeeee" in check.detail
    assert "dddddddddddd" in check.detail


def test_another_test_set_in_one_run_is_found(view):
    made = view()
    made.arms[1].best[0].final["confusion"][3][3] += 1
    assert first(made, "Same data for all arms").holds is False


def test_data_without_a_digest_are_unknown(view):
    made = view()
    del made.records.data["digest"]
    assert first(made, "Same data for all arms").holds is None


def test_runs_of_another_length_are_found(view):
    made = view()
    made.arms[1].best[0].header["steps_per_epoch"] = 31
    check = first(made, "Same training recipe")
    assert (check.holds, "steps an epoch: 31 and 32" in check.detail) == (False, True)
    made = view()
    made.arms[1].best[0].epochs.pop()
    check = first(made, "Same training recipe")
    assert (check.holds, "epochs: 3 and 4" in check.detail) == (False, True)


def test_a_diverged_run_may_be_shorter(view):
    check = first(view(diverge=[("batch", 1.0, None)]), "Same training recipe")
    assert check.holds is True
    assert "32 steps an epoch and 4 epochs" in check.detail


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
