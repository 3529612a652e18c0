from batchnorm.records import Records, Run
from batchnorm.records.summary import best_rate, edge, summarize
from tests.report.records_factory import Plan, records


def run(arm="batch", lr=0.1, seed=0, accuracies=(0.5,), loss=1.0, diverged=False, place="after", **final):
    header = {"run": f"{arm}-{place}-{lr}-{seed}", "arm": arm, "placement": place, "lr": lr, "seed": seed}
    epochs = [
        {"epoch": i, "val_accuracy": accuracy, "val_loss": loss, "seconds": float(i)}
        for i, accuracy in enumerate(accuracies, start=1)
    ]
    return Run(header, epochs, [], None, {"diverged": diverged, **final})


def gather(*runs, **settings):
    defaults = {"norms": ["none", "batch"], "placements": ["after"], "lrs": [0.1], "seeds": 1}
    return Records({"settings": defaults | settings}, runs={r.name: r for r in runs})


def test_best_rate_has_the_highest_mean_over_seeds():
    runs = [run(lr=0.1, seed=0, accuracies=[0.9]), run(lr=0.1, seed=1, accuracies=[0.5]),
            run(lr=1.0, seed=0, accuracies=[0.8]), run(lr=1.0, seed=1, accuracies=[0.8])]  # fmt: skip
    assert best_rate(runs) == 1.0
    assert best_rate(runs[:2]) == 0.1
    assert best_rate([]) is None


def test_best_rate_looks_at_the_last_epoch():
    assert best_rate([run(lr=0.1, accuracies=[0.99, 0.5]), run(lr=1.0, accuracies=[0.1, 0.6])]) == 1.0


def test_a_diverged_run_counts_zero():
    runs = [run(lr=0.1, accuracies=[0.4]), run(lr=1.0, seed=0, accuracies=[0.7]),
            run(lr=1.0, seed=1, accuracies=[0.7], diverged=True)]  # fmt: skip
    assert best_rate(runs) == 0.1


def test_ties_go_to_the_lower_loss_then_to_the_lower_rate():
    assert best_rate([run(lr=0.1, loss=2.0), run(lr=1.0, loss=1.0)]) == 1.0
    assert best_rate([run(lr=1.0), run(lr=0.1)]) == 0.1
    assert best_rate([run(lr=0.1, loss=None), run(lr=1.0, loss=1.0)]) == 1.0


def test_edge_of_the_grid():
    runs = [run(lr=lr, accuracies=[accuracy]) for lr, accuracy in ((0.01, 0.2), (0.1, 0.9), (1.0, 0.3))]
    assert edge(runs) is None
    assert edge(runs[:2]) == "high"
    assert edge(runs[1:]) == "low"
    assert edge(runs[1:], [0.01, 0.1, 1.0]) is None
    assert edge(runs[:1]) is None
    assert edge([]) is None


def test_epochs_to_the_accuracy_that_none_ended_with_are_paired_by_seed():
    found = summarize(
        gather(
            run("none", seed=0, accuracies=[0.2, 0.5, 0.8], place=None),
            run("none", seed=1, accuracies=[0.2, 0.7, 0.6], place=None),
            run("batch", seed=0, accuracies=[0.8, 0.9, 0.9]),
            run("batch", seed=1, accuracies=[0.5, 0.6, 0.9]),
        )
    )
    none, batch = found.arms
    # none with seed 1 was at its final 0.6 in epoch 2 already: the first epoch counts, for every arm
    assert (none.reach.epochs.mean, batch.reach.epochs.mean) == (2.5, 1.5)
    assert batch.reach.epochs_difference.mean == -1.0
    assert batch.reach.seconds_difference.mean == -1.0
    assert none.reach.epochs_difference is None
    assert (batch.reach.compared, batch.reach.reached, batch.reach.complete) == (2, 2, True)


def test_seeds_that_never_get_there_are_counted_and_take_the_interval_away():
    found = summarize(
        gather(
            *(run("none", seed=seed, accuracies=[0.2, 0.8], place=None) for seed in range(3)),
            run("batch", seed=0, accuracies=[0.9, 0.9]),
            run("batch", seed=1, accuracies=[0.8, 0.9]),
            run("batch", seed=2, accuracies=[0.3, 0.7]),
        )
    )
    reach = found.arms[1].reach
    assert (reach.compared, reach.reached, reach.complete) == (3, 2, False)
    assert (reach.epochs.mean, reach.epochs.low, reach.epochs.n) == (1.0, None, 2)
    assert reach.epochs_difference is None


def test_a_diverged_run_did_not_arrive_and_a_diverged_none_has_no_target():
    found = summarize(
        gather(
            run("none", seed=0, accuracies=[0.5], place=None),
            run("none", seed=1, accuracies=[0.5], place=None, diverged=True),
            run("batch", seed=0, accuracies=[0.9], diverged=True),
            run("batch", seed=1, accuracies=[0.9]),
        )
    )
    reach = found.arms[1].reach
    assert (reach.compared, reach.reached) == (1, 0)
    assert reach.epochs is None


def test_comparisons_without_none_are_none():
    arm = summarize(gather(run("batch", test_accuracy=0.9))).arms[0]
    assert arm.accuracy_difference is None
    assert arm.reach is None
    assert arm.test_accuracy.mean == 0.9


def test_zero_runs_and_lines_without_numbers():
    assert summarize(gather()).arms == ()
    bare = Run(
        {"run": "x", "arm": "batch", "placement": "after", "lr": 0.1, "seed": 0}, final={"kind": "final"}
    )
    base = Run({"run": "y", "arm": "none", "placement": None, "lr": 0.1, "seed": 0}, final={"kind": "final"})
    found = summarize(Records({}, runs={"x": bare, "y": base}))
    assert [arm.arm for arm in found.arms] == ["none", "batch"]
    assert found.arms[1].test_accuracy is None
    assert found.arms[1].reach.compared == 0


def test_order_labels_and_divergences(tmp_path):
    arms = (("group", "before"), ("batch", "after"), ("none", None), ("batch", "before"))
    plan = Plan(arms=arms, samples=0, diverge=[("batch", 1.0, None), ("batch", 0.1, 1)])
    found = summarize(records(tmp_path, plan))
    assert [arm.label for arm in found.arms] == ["none", "batch (before)", "batch (after)", "group (before)"]
    assert [(rate.lr, rate.runs, rate.diverged) for rate in found.arms[1].rates] == [
        (0.01, 3, 0), (0.1, 3, 1), (1.0, 3, 3)
    ]  # fmt: skip
    assert (found.arms[1].runs, found.arms[1].diverged) == (9, 4)


def test_diverged_runs_are_kept_out_of_means(tmp_path):
    found = summarize(records(tmp_path, Plan(samples=0, lrs=(0.1,), diverge=[("batch", 0.1, 1)])))
    batch = found.arms[1]
    assert batch.test_accuracy.n == 2
    assert batch.accuracy_difference.n == 2
    assert batch.best.diverged == 1


def test_label_names_the_placement_only_where_it_tells_arms_apart(tmp_path):
    assert [arm.label for arm in summarize(records(tmp_path, Plan(samples=0))).arms] == ["none", "batch"]


def test_winner_only_where_the_interval_supports_it(tmp_path):
    clear = summarize(records(tmp_path / "clear", Plan(samples=0)))
    assert clear.winner == ("batch", "after")
    level = {"none": 0.95, "batch": 0.951}
    close = summarize(records(tmp_path / "close", Plan(samples=0, levels=level, noise=0.02)))
    assert close.winner is None
    assert not close.arms[1].accuracy_difference.excludes_zero


def test_no_winner_among_survivors(tmp_path):
    plan = Plan(samples=0, seeds=5, lrs=(0.1,), diverge=[("batch", 0.1, 4)])
    found = summarize(records(tmp_path / "one", plan))
    assert found.arms[1].accuracy_difference.excludes_zero
    assert found.winner is None
    assert [arm.survivors for arm in found.arms] == [False, True]
    plan.diverge = [("none", 0.1, 4)]
    assert [arm.survivors for arm in summarize(records(tmp_path / "two", plan)).arms] == [True, True]


def test_two_seeds_that_agree_on_an_epoch_give_no_interval():
    def found(count):
        runs = [run("none", seed=seed, accuracies=[0.2, 0.8], place=None) for seed in range(count)]
        runs += [run("batch", seed=seed, accuracies=[0.8, 0.9]) for seed in range(count)]
        return summarize(gather(*runs)).arms[1].reach.epochs_difference

    assert (found(2).mean, found(2).low, found(2).excludes_zero) == (-1.0, None, False)
    assert (found(3).low, found(3).high) == (-1.0, -1.0)


def test_no_winner_before_every_rate_has_run(tmp_path):
    found = summarize(records(tmp_path, Plan(samples=0, finished=15)))
    assert [arm.complete for arm in found.arms] == [True, False]
    assert found.arms[1].accuracy_difference.excludes_zero
    assert found.winner is None


def test_an_interrupted_comparison_says_how_much_is_missing(tmp_path):
    found = summarize(records(tmp_path, Plan(samples=0, finished=5)))
    assert (found.finished, found.planned, found.complete) == (5, 18, False)
    assert [arm.arm for arm in found.arms] == ["none"]


def test_rates_added_at_the_edge_are_planned_for_all_seeds(tmp_path):
    plan = Plan(samples=0, lrs=(0.1, 1.0, 10.0), settings={"lrs": [0.1, 1.0]})
    assert summarize(records(tmp_path / "whole", plan)).planned == 18
    plan.finished = 17
    assert summarize(records(tmp_path / "cut", plan)).planned == 18


def test_models_with_norms_of_their_own_count_once(tmp_path):
    plan = Plan(
        arms=(("none", None), ("batch", "own")), samples=0, settings={"placements": ["before", "after"]}
    )
    assert summarize(records(tmp_path, plan)).complete


def test_step_times_and_parameters(tmp_path):
    none, batch = summarize(records(tmp_path, Plan(samples=0))).arms
    assert (none.parameters, batch.parameters) == (61706, 61750)
    assert batch.seconds_per_step == 0.004 * 1.2
    assert batch.step_difference.excludes_zero
