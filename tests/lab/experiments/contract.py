"""What every experiment of the lab must keep, and how its verdict is turned by records that say otherwise."""

import functools
import json
import math
import subprocess
import sys

from batchnorm.lab.experiment import Experiment, Task
from batchnorm.lab.experiments import NAMES, load
from batchnorm.lab.perform import measure
from batchnorm.records.charts import Chart
from batchnorm.records.verdict import VERDICTS

__all__ = ["check", "doctored", "miniature"]


def miniature(name, **smaller):
    """The records of the quick plan, each task with these settings made smaller; as they are read back from disk.

    Settings that a task does not have are left out. Worked out once a process and copied for each caller.
    """
    return json.loads(_miniature(name, tuple(sorted(smaller.items()))))


def doctored(records, change, **where):
    """A copy of the records in which the lines with the fields `where` say something else.

    `change`: field to its new value, or to a function of the old one. At least one line must match.
    """
    found, hits = [], 0
    for line in records:
        line = dict(line)
        if all(line.get(key) == value for key, value in where.items()):
            hits += 1
            for field, value in change.items():
                assert field in line, f"{field!r} is no field of {sorted(line)}"
                line[field] = value(line[field]) if callable(value) else value
        found.append(line)
    assert hits, f"no record has {where}"
    return found


def check(name, **smaller):
    """Assert what every experiment must keep; `smaller` as in `miniature`."""
    experiment = load(name)
    check_fields(experiment, name)
    check_plan(experiment)
    check_imports(name)
    records = miniature(name, **smaller)
    check_runs(experiment, records, smaller)
    check_judgement(experiment, records)


def check_fields(experiment, name):
    assert experiment.name == name
    assert name in NAMES
    for field in ("title", "claim", "published", "method", "criterion", "does_not_show"):
        text = getattr(experiment, field)
        assert len(text) > 10, f"{field} says nothing"
        assert text[0].isupper() or text[0].isdigit(), f"{field} starts in lower case"
        assert text[-1] == ("?" if field == "title" else "."), f"{field} does not end as a sentence"
    assert experiment.source.citation
    assert experiment.source.link.startswith("https://")
    assert 0 < experiment.seconds[0] <= experiment.seconds[1]
    assert experiment.seeds[0] >= 3
    assert experiment.seeds[1] >= 5
    numbers = [load(each).number for each in NAMES]
    assert numbers == sorted(set(numbers)), "NAMES is not in the order of the numbers"


def check_plan(experiment):
    for quick in (True, False):
        scale = experiment.scale(quick=quick)
        tasks = experiment.plan(scale)
        assert tasks == experiment.plan(scale)
        names = [task.name for task in tasks]
        assert len(names) == len(set(names))
        assert {task.seed for task in tasks} == set(range(scale.seeds))
        assert {task.arm for task in tasks} <= experiment.arms.keys()
        assert [task.seed for task in tasks] == sorted(task.seed for task in tasks), "not seed by seed"
        if experiment.uses_data:
            other = experiment.plan(experiment.scale(quick=quick, data="mnist"))
            assert {dict(task.settings).get("data") for task in other} - {None} == {"mnist"}


def check_imports(name):
    module = f"batchnorm.lab.experiments.{name.replace('-', '_')}"
    code = (
        f"import sys, {module}; print(sorted({{'torch', 'numpy', 'plotly', 'scipy'}} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", "imported at the top of the file"


def check_runs(experiment, records, smaller):
    task = _tasks(experiment, smaller)[0]
    first = [line for line in records if _of(line, task)]
    assert _lines(experiment, task) == first, "the same task gave other records"


def check_judgement(experiment, records):
    before = json.dumps(records)
    found = experiment.verdict(records)
    assert found == experiment.verdict(records)
    assert found.verdict in VERDICTS
    assert found.finding[-1] == "."
    assert found.value is None or math.isfinite(found.value)
    for part in found.checks:
        assert type(part.holds) is bool
    charts = experiment.figures(records)
    assert charts == experiment.figures(records)
    assert charts
    assert all(isinstance(chart, Chart) and chart.panels and chart.caption for chart in charts)
    assert len({chart.name for chart in charts}) == len(charts)
    assert json.dumps(records) == before, "verdict or figures changed the records"


@functools.cache
def _miniature(name, smaller):
    experiment = load(name)
    lines = [line for task in _tasks(experiment, dict(smaller)) for line in _lines(experiment, task)]
    return json.dumps(lines)


def _tasks(experiment: Experiment, smaller):
    tasks = experiment.plan(experiment.scale(quick=True))
    shrunk = [
        Task.of(task.arm, task.seed, **{key: smaller.get(key, old) for key, old in task.settings})
        for task in tasks
    ]
    unknown = smaller.keys() - {key for task in tasks for key, _ in task.settings}
    assert not unknown, f"no task has the settings {sorted(unknown)}"
    return sorted(dict.fromkeys(shrunk), key=lambda task: task.name)


def _lines(experiment, task):
    records = measure(experiment, task)
    return [_null({**task.identity(), **record}) for record in json.loads(json.dumps(records))]


def _of(line, task):
    return all(line.get(key) == value for key, value in task.identity().items())


def _null(value):
    """As the store writes it: numbers that are not finite are null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _null(item) for key, item in value.items()}
    return [_null(item) for item in value] if isinstance(value, list) else value
