import pickle

import pytest

from batchnorm.lab.experiment import Scale, Task
from batchnorm.lab.experiments import NAMES, chosen, load


def test_a_task_is_its_settings_wherever_it_goes():
    task = Task.of("batch", 3, lr=0.1, steps=300, data=None)
    assert pickle.loads(pickle.dumps(task)) == task
    assert len({task, Task.of("batch", 3, lr=0.1, steps=300, data=None)}) == 1
    assert (task["lr"], task["data"]) == (0.1, None)
    assert task.name == "batch,lr=0.1,steps=300,data=None,seed=3"
    assert task.identity() == {
        "run": task.name,
        "arm": "batch",
        "seed": 3,
        "lr": 0.1,
        "steps": 300,
        "data": None,
    }
    with pytest.raises(KeyError):
        task["depth"]


@pytest.mark.parametrize("name", ["kind", "run"])
def test_a_setting_cannot_hide_a_field_of_every_record(name):
    with pytest.raises(ValueError, match=f"settings has '{name}', a field of every record"):
        Task.of("batch", 0, **{name: 1})


def test_a_scale_picks_and_an_experiment_has_its_own_seeds():
    assert [Scale(quick, 3).pick("few", "many") for quick in (True, False)] == ["few", "many"]
    experiment = load("layer-norm")
    assert [experiment.scale(quick=quick).seeds for quick in (True, False)] == [3, 5]
    assert experiment.scale(quick=True, seeds=9, data="mnist") == Scale(True, 9, "mnist")


def test_chosen_come_once_and_in_the_order_of_their_numbers():
    both = ["layer-norm", "before-and-after", "layer-norm"]
    assert [each.name for each in chosen(both)] == ["before-and-after", "layer-norm"]
    assert [each.name for each in chosen(["layer-norm", "all"])] == list(NAMES)
