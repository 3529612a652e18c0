import pytest

from batchnorm.lab.plan import Task, extension, plan
from batchnorm.records.store import Run
from tests.lab import tiny


def finished(task: Task, accuracy: float, *, diverged: bool = False) -> Run:
    header = {"kind": "run", **task.identity()}
    epoch = {"val_accuracy": None if diverged else accuracy, "val_loss": None if diverged else 1 - accuracy}
    return Run(header, epochs=[epoch], final={"diverged": diverged})


def runs(tasks, accuracy):
    return [finished(task, accuracy(task)) for task in tasks]


def test_the_arm_none_runs_once_whatever_the_number_of_placements():
    config = tiny.config(norms="none,batch,group", placement="before,after", lrs="0.1,1", seeds=2)
    tasks = plan(config, config.placements)
    assert len(tasks) == len({task.name for task in tasks}) == (1 + 2 + 2) * 2 * 2
    none = [task for task in tasks if task.arm == "none"]
    assert len(none) == 4
    assert {task.placement for task in none} == {None}
    assert {task.placement for task in tasks if task.arm == "group"} == {"before", "after"}


def test_seeds_come_one_after_the_other_so_that_an_interrupted_plan_is_balanced():
    tasks = plan(tiny.config(lrs="0.1,1", seeds=3), ("after",))
    assert [task.seed for task in tasks] == sorted(task.seed for task in tasks)


def test_arms_follow_each_other_at_each_rate():
    tasks = plan(tiny.config(lrs="0.1,1", seeds=1), ("after",))
    assert [(task.lr, task.arm) for task in tasks] == [
        (0.1, "none"),
        (0.1, "batch"),
        (1, "none"),
        (1, "batch"),
    ]


def test_names_tell_runs_apart_and_do_not_change():
    assert Task("batch", "after", 0.1, 3).name == "batch-after-lr0.1-seed3"
    assert Task("none", None, 1e-05, 0).name == "none-lr1e-05-seed0"


GRID = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@pytest.mark.parametrize(("best", "beyond"), [(0.02, 0.008), (0.05, None), (0.5, None), (1.0, 2.0)])
def test_the_grid_is_extended_where_the_best_rate_lies_at_its_edge(best, beyond):
    config = tiny.config(lrs=None, seeds=2)
    assert config.lrs == GRID
    there = runs(plan(config, ("after",)), lambda task: 0.9 if task.lr == best or task.arm == "none" else 0.5)
    # The arm none is equally good everywhere, so its lowest loss and rate win: an edge too.
    further = [task for task in extension(config, ("after",), there) if task.arm == "batch"]
    assert [(task.lr, task.seed) for task in further] == (
        [] if beyond is None else [(beyond, 0), (beyond, 1)]
    )


def test_each_placement_is_extended_by_itself():
    config = tiny.config(lrs=None, norms="batch", placement="before,after")
    there = runs(
        plan(config, config.placements),
        lambda task: 0.9 if task.lr == (1.0 if task.placement == "before" else 0.1) else 0.5,
    )
    assert extension(config, config.placements, there) == [Task("batch", "before", 2.0, 0)]


def test_what_the_extension_found_does_not_extend_it_again():
    config = tiny.config(lrs=None, norms="batch")
    there = runs(plan(config, ("after",)), lambda task: task.lr / 10)
    further = extension(config, ("after",), there)
    assert [task.lr for task in further] == [2.0]
    assert extension(config, ("after",), there + runs(further, lambda _: 0.99)) == further


def test_rates_that_were_given_are_not_extended():
    config = tiny.config(lrs="0.1,0.2")
    there = runs(plan(config, ("after",)), lambda task: task.lr)
    assert extension(config, ("after",), there) == []


def test_where_every_run_diverged_the_grid_is_extended_downwards():
    config = tiny.config(lrs=None, norms="batch")
    there = [finished(task, 0.0, diverged=True) for task in plan(config, ("after",))]
    assert [task.lr for task in extension(config, ("after",), there)] == [0.008]
