from batchnorm.report.answer import answer, arms_table
from batchnorm.report.phrases import listed, phrase, tidy
from batchnorm.report.view import look


def plain(view):
    found = answer(view)
    return " ".join([found.lead.striptags(), *found.more])


def test_an_effect_is_stated_with_its_interval(view):
    text = plain(view(seeds=5))
    assert "With batch norm the network reached 96.9% test accuracy [" in text
    assert "(5 seeds)" in text
    assert "points [" in text
    assert "over the same network without it" in text
    assert "epochs instead of" in text
    assert "Both had their learning rate tuned on the validation split: 0.1 for both." in text


def test_an_interval_that_includes_zero_is_called_chance(view):
    text = plain(view(seeds=5, levels={"none": 0.95, "batch": 0.951}, speeds={}, noise=0.03))
    assert "may be chance: its interval includes 0, so no effect on accuracy is shown" in text
    assert "over the same network" not in text


def test_a_loss_of_accuracy_is_stated_as_plainly(view):
    text = plain(view(seeds=5, levels={"none": 0.97, "batch": 0.9}))
    assert "against the same network without it" in text
    assert "-7." in text


def test_one_seed_proves_nothing(view):
    text = plain(view(seeds=1))
    assert "With one seed in common there is no interval" in text
    assert "may be chance" in text


def test_no_difference_in_speed_is_said(view):
    # The same curve with and without: no seed can be much sooner.
    text = plain(
        view(seeds=5, levels={"none": 0.9, "batch": 0.9}, speeds={"none": 1.0, "batch": 1.0}, noise=0.02)
    )
    assert "instead of" not in text
    assert "no difference in speed is shown" in text or "of 5 seeds" in text


def test_an_arm_that_never_gets_there(view):
    text = plain(view(levels={"none": 0.97, "batch": 0.6}))
    assert (
        "It did not get to the validation accuracy that the network without ended with in any of 3 seeds"
        in text
    )


def test_diverged_runs_are_named_where_they_flatter(view):
    found = answer(view(lrs=(0.1,), diverge=[("batch", 0.1, 1)]))
    assert any("1 of 3 runs with batch norm at its best rate diverged" in text for text in found.warnings)


def test_survivors_of_divergence_make_no_headline(view):
    lost = [("batch", lr, seed) for lr in (0.01, 0.1, 1.0) for seed in (2, 3, 4)]
    made = view(seeds=5, diverge=lost, levels={"none": 0.9, "batch": 0.99})
    found = answer(made)
    lead = found.lead.striptags()
    assert lead.startswith(
        "With batch norm, training diverged in 3 of 5 seeds at the best rate; in the 2 that finished the "
    )
    assert "no advantage is claimed" in lead
    assert made.summary.winner is None
    text = plain(made)
    assert "points" not in text
    assert "instead of" not in text
    rows = arms_table(made).rows
    assert "(n = 2)" in rows[1][3]
    assert "(n = 2)" in rows[1][2].text
    assert "(n" not in rows[0][2].text


def test_a_baseline_that_lost_seeds_comes_first_too(view):
    made = view(seeds=4, lrs=(0.1,), diverge=[("none", 0.1, 0)])
    lead = answer(made).lead.striptags()
    assert lead.startswith("Without normalization, training diverged in 1 of 4 seeds")
    assert "no advantage is claimed" in lead


def test_other_arms_that_lost_seeds_are_not_judged(view):
    arms = [("none", None), ("batch", "after"), ("layer", "after")]
    text = plain(view(arms=arms, seeds=5, lrs=(0.1,), diverge=[("layer", 0.1, 0)], levels={"none": 0.8}))
    assert "Test accuracy is not judged for layer norm, where seeds diverged" in text


def test_an_average_of_one_epoch_is_singular(view):
    made = view(seeds=2, lrs=(0.1,), epochs=2)
    for seed, accuracy in ((0, 0.99), (1, 0.1)):
        made.arms[1].best[seed].epochs[0]["val_accuracy"] = accuracy
        made.arms[1].best[seed].epochs[1]["val_accuracy"] = accuracy
    text = plain(look(made.records))
    assert "in 1 of 2 seeds (1 epoch on average there)" in text


def test_two_seeds_claim_no_difference_in_epochs(view):
    text = plain(view(seeds=2, lrs=(0.1,), noise=0.0))
    assert "(2 seeds: too few for an interval)" in text
    assert "instead of" not in text


def test_the_tuning_of_many_arms_is_not_said_of_both(view):
    arms = [("none", None), ("batch", "after"), ("layer", "after")]
    text = plain(view(arms=arms))
    assert "for both" not in text
    assert "0.1 with batch norm, 0.1 without normalization, the others' in the table" in text


def test_all_runs_diverged(view):
    text = plain(view(diverge=[("batch", None, None)]))
    assert "With batch norm, every one of 9 runs diverged, so there is no test accuracy." in text
    assert "Without normalization the network reached" in text


def test_no_runs(view):
    found = answer(view(finished=0))
    assert "nothing to say" in found.lead
    assert any("0 of 18 planned runs" in text for text in found.warnings)


def test_nothing_is_claimed_before_every_rate_has_run(view):
    for finished in range(1, 18):
        text = plain(view(finished=finished, seeds=3))
        assert "points" not in text
        assert "instead of" not in text
    assert "points" in plain(view(finished=18))


def test_one_arm_has_nothing_to_be_compared_with(view):
    assert "no arm without normalization to compare it with" in plain(view(arms=[("batch", "after")]))
    assert "no arm with normalization to compare it with" in plain(view(arms=[("none", None)]))


def test_a_rate_at_the_edge_is_a_warning(view):
    found = answer(view(lrs=(0.01, 0.1)))
    edge = "may lie beyond it: no normalization (0.1, the highest run) and batch norm (0.1, the highest run)."
    assert any(edge in text for text in found.warnings)


def test_a_network_that_did_not_train_is_a_warning(view):
    found = answer(view(levels={"none": 0.35, "batch": 0.97}, classes="abc"))
    assert any("stayed near chance" in text for text in found.warnings)


def imbalanced(made, accuracy):
    for run in made.records.runs.values():
        run.final["confusion"] = [[90, 0], [10, 0]]
        run.final["test_accuracy"] = accuracy
    return look(made.records)


def test_chance_is_the_share_of_the_most_frequent_class(view):
    made = imbalanced(view(classes="ab"), 0.9)
    assert made.chance == 0.9
    assert any("chance is 90.0%, always guessing the most frequent" in text for text in answer(made).warnings)
    assert not any("chance" in text for text in answer(imbalanced(view(classes="ab"), 0.97)).warnings)
    for run in made.records.runs.values():
        run.final["confusion"] = None
    assert look(made.records).chance == 0.5


def test_an_untuned_rate_is_said(view):
    assert "it was not tuned" in plain(view(lrs=(0.1,)))


def test_other_arms_are_counted_with_the_price_of_many_comparisons(view):
    arms = [("none", None), ("batch", "after"), ("layer", "after"), ("group", "after")]
    levels = {"none": 0.93, "batch": 0.97, "layer": 0.96, "group": 0.8}
    text = plain(view(arms=arms, levels=levels, seeds=5))
    assert "above that of the network without for layer norm" in text
    assert "below it for group norm" in text
    assert "With 3 comparisons" in text


def test_the_main_arm_is_batch_norm_where_validation_prefers_it(view):
    arms = [("none", None), ("batch", "before"), ("batch", "after"), ("layer", "after")]
    assert "norm" in answer(view(arms=arms)).lead
    assert answer(view(arms=arms)).lead.startswith("With batch norm ")


def test_the_limits_name_data_and_model(view):
    limits = answer(view()).limits
    assert "digits" in limits
    assert "lenet, 4 epochs" in limits
    assert "does not show what happens on yours" in limits


def test_the_table_has_a_row_an_arm_and_bold_only_for_a_winner(view):
    clear = arms_table(view(seeds=5))
    assert [row[0] for row in clear.rows] == ["none", "batch"]
    assert [row[2].strong for row in clear.rows] == [False, True]
    close = arms_table(view(seeds=5, levels={"none": 0.95, "batch": 0.951}, noise=0.03))
    assert [row[2].strong for row in close.rows] == [False, False]


def test_phrases():
    assert phrase("batch", "after", several=True) == "batch norm after the activation"
    assert phrase("batch", "after", several=False) == "batch norm"
    assert phrase("mine", "own", several=True) == "'mine'"
    assert (listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])) == ("a", "a and b", "a, b and c")


def test_intervals_do_not_break_across_lines():
    assert tidy("+1.2 points [0.4, 2.0] (5 seeds)") == "+1.2\u00a0points [0.4,\u00a02.0] (5\u00a0seeds)"
