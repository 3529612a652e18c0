import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from batchnorm.cli import lab_live
from batchnorm.cli.lab_live import LiveView, PlainLines, Silent, watcher
from batchnorm.lab.progress import ProgressFile
from tests.report.judged_factory import judged, verdict


def console(*, terminal=False, width=100):
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, highlight=False)


def batch(name, total, missing, seconds):
    return SimpleNamespace(
        experiment=SimpleNamespace(name=name),
        tasks=[0] * total,
        missing=[0] * missing,
        expected_seconds=seconds,
    )


def ended(run):
    return [{"kind": "final", "run": run}]


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(time=1000.0)
    monkeypatch.setattr(lab_live.time, "monotonic", lambda: now.time)
    return now


def begun(display, tmp_path, jobs=2):
    batches = [batch("one", 4, 2, 30.0), batch("two", 10, 10, 6.0)]
    display.begin(tmp_path, batches, jobs, ProgressFile(tmp_path))
    return display


def test_the_display_suits_where_it_stands():
    assert type(watcher(console(terminal=True), quiet=False)) is LiveView
    assert type(watcher(console(), quiet=False)) is PlainLines
    assert type(watcher(console(terminal=True), quiet=True)) is Silent


def test_the_time_left_is_what_the_experiments_say_until_the_pace_is_known(clock, tmp_path):
    display = begun(Silent(), tmp_path)
    assert (display.done, display.total) == (2, 14)
    assert display.left() == pytest.approx((2 * 30 + 10 * 6) / 2)
    clock.time += 5
    display.finished("two", ended("a"))
    assert display.left() == pytest.approx((2 * 30 + 9 * 6) / 2)  # the workers may still be starting
    clock.time += 13
    assert display.left() == pytest.approx((2 * 30 + 9 * 6) * 18 / 6)
    display.failed("one", ValueError("x"))
    assert display.left() == pytest.approx(9 * 6 * 18 / 6)


def test_plain_lines_say_the_verdict_and_the_time_left(clock, tmp_path):
    display = begun(PlainLines(console()), tmp_path)
    display.judged(judged(verdict(True, False)))
    display.failed("two", ValueError("experiment 'two': out of luck"))
    display.failed("one", ValueError("y"))
    display.judged(judged(verdict(False)))
    assert display.console.file.getvalue().splitlines() == [
        f"14 runs for 2 claims, 2 of them done before, about 1 min 00 s; results in {tmp_path}",
        "2/14  ~ smoother partly: 3.25 times; about 1 min 00 s left",
        "failed: experiment 'two': out of luck",
        "failed: y",
        "2/14  ✗ smoother not reproduced: 3.25 times",
    ]


def test_the_live_view_shows_the_runs_under_way(clock, tmp_path):
    display = begun(LiveView(console(terminal=True)), tmp_path)
    write = ProgressFile(tmp_path).writer
    write({"kind": "started", "claim": "one", "run": "batch,seed=0"})
    write({"kind": "started", "claim": "two", "run": "none,[b]seed=1"})

    def shown():
        screen = console()
        screen.print(display.frame.render())
        return [" ".join(line.split()) for line in screen.file.getvalue().splitlines()]

    assert shown() == [
        "claim runs under way",
        "one 2/4 batch,seed=0",
        "two 0/10 none,[b]seed=1",
        "2 of 14 runs, 0 s so far, about 1 min 00 s left",
    ]
    display.finished("two", ended("none,[b]seed=1"))
    display.failed("one", ValueError("x"))
    write({"kind": "started", "claim": "two", "run": "none,[b]seed=1"})  # seen after its end
    assert shown() == ["3 of 14 runs, 0 s so far, about 27 s left"]
