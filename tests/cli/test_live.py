import io
import time

import pytest
from rich.console import Console

from batchnorm.cli.live import LiveTable, PlainLines, Silent, observer
from batchnorm.lab.plan import Task
from batchnorm.lab.progress import ProgressFile

NONE, BATCH = Task("none", None, 0.1, 0), Task("batch", "after", 0.5, 2)


def console(*, terminal, width=80):
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, highlight=False)


def final(task, **values):
    line = {"kind": "final", **task.identity(), "diverged": False, "diverged_at": None}
    return [line | {"test_accuracy": 0.5, "test_loss": 1.25, "train_seconds": 2.0} | values]


def epoch(task, number, **values):
    line = {"kind": "epoch", **task.identity(), "epoch": number}
    return line | {"train_loss": 0.123456, "val_accuracy": 0.87} | values


def shown(display):
    screen = console(terminal=False, width=display.console.width)
    screen.print(display.frame.render())
    return screen.file.getvalue()


def test_the_display_suits_where_it_stands():
    assert type(observer(console(terminal=True), quiet=False)) is LiveTable
    assert type(observer(console(terminal=False), quiet=False)) is PlainLines
    assert type(observer(console(terminal=True), quiet=True)) is Silent


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert type(observer(console(terminal=True), quiet=False)) is PlainLines


@pytest.mark.parametrize("width", [36, 40, 59])
def test_a_narrow_terminal_still_shows_loss_and_accuracy(tmp_path, width):
    display = LiveTable(console(terminal=True, width=width))
    news = ProgressFile(tmp_path)
    display.begin(tmp_path, 4, 0, 15, news)
    news.writer(epoch(BATCH, 15))
    assert "0.123" in shown(display)
    assert "87.0%" in shown(display)


def test_plain_lines_say_what_happened_and_nothing_else(tmp_path):
    screen = console(terminal=False, width=20)
    with PlainLines(screen) as display:
        display.begin(tmp_path, 3, 1, 10, None)
        display.finished(final(NONE))
        display.finished(final(BATCH, diverged=True, diverged_at=4, test_accuracy=None))
        display.extended([Task("batch", "after", 2.0, 0), Task("batch", "after", 2.0, 1)], 2)
        display.finished(final(Task("batch", "after", 2.0, 0)))
    assert screen.file.getvalue().splitlines() == [
        f"3 runs, 1 of them done before; results in {tmp_path}",
        "2/3  none, rate 0.1, seed 0: test accuracy 50.0%, loss 1.25, 2.00 s",
        "3/3  batch after, rate 0.5, seed 2: diverged in epoch 4",
        "Best rate at the edge of the grid, so it is extended: batch after at 2",
        "4/5  batch after, rate 2, seed 0: test accuracy 50.0%, loss 1.25, 2.00 s",
    ]


@pytest.fixture
def display(tmp_path):
    table = LiveTable(console(terminal=True))
    news = ProgressFile(tmp_path)
    with table:
        assert shown(table) == "Loading the data and trying the networks\n"
        table.begin(tmp_path, 4, 0, 10, news)
        table.frame.live.stop()  # what rich draws four times a second is drawn by hand here
        yield table, news.writer


def test_the_table_shows_the_runs_under_way_and_the_time_left(display):
    table, write = display
    assert shown(table) == "0 of 4 runs, starting\n"
    write({"kind": "started", **NONE.identity(), "epoch": 0})
    write(epoch(BATCH, 3))
    lines = shown(table).splitlines()
    assert lines[0].split() == ["arm", "placement", "rate", "seed", "epoch", "loss", "accuracy"]
    assert lines[1].split() == ["none", "0.1", "0", "0/10", "-", "-"]
    assert lines[2].split() == ["batch", "after", "0.5", "2", "3/10", "0.123", "87.0%"]
    assert lines[3].startswith("0 of 4 runs, 0 s so far")
    assert "left" not in lines[3]
    table.began = time.monotonic() - 13.0
    table.finished(final(NONE))
    lines = shown(table).splitlines()
    assert len(lines) == 3
    # 1.3 runs in 13 s; 2.7 are left.
    assert lines[2] == "1 of 4 runs, 13 s so far, about 27 s left"


def test_late_news_of_a_finished_run_do_not_bring_it_back(display):
    table, write = display
    table.finished(final(NONE))
    write(epoch(NONE, 10))
    assert "none" not in shown(table)


def test_an_extension_counts(display):
    table, _ = display
    table.extended([BATCH, Task("batch", "after", 0.5, 3)], 1)
    assert shown(table).startswith("1 of 6 runs")


@pytest.mark.parametrize(
    ("seconds", "text"), [(7.4, "7 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (7260, "2 h 01 min")]
)
def test_the_clock_counts_in_whole_units(display, seconds, text):
    table, _ = display
    table.began = time.monotonic() - seconds
    assert f" {text} so far" in shown(table)


def test_a_narrow_terminal_keeps_every_line_within_it(tmp_path):
    table = LiveTable(console(terminal=True, width=30))
    news = ProgressFile(tmp_path)
    table.folder, table.epochs, table.news, table.total = tmp_path, 10, news, 4
    news.writer(epoch(BATCH, 3))
    assert max(len(line) for line in shown(table).splitlines()) <= 30


def test_on_a_terminal_the_table_disappears_when_it_is_done(tmp_path):
    screen = console(terminal=True)
    news = ProgressFile(tmp_path)
    with LiveTable(screen) as table:
        table.begin(tmp_path, 1, 0, 10, news)
        news.writer(epoch(BATCH, 3))
        table.frame.live.refresh()
        assert "3/10" in screen.file.getvalue()
        table.finished(final(BATCH))
    assert screen.file.getvalue().endswith("\x1b[2K")  # the last line of the table is wiped
    assert screen.file.getvalue().count("\x1b[?25l") == screen.file.getvalue().count("\x1b[?25h")


def test_colours_are_left_out_where_nobody_wants_them(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Console(file=io.StringIO(), force_terminal=True, width=80)
    table = LiveTable(screen)
    table.news = ProgressFile(tmp_path)
    table.news.writer(epoch(BATCH, 3))
    screen.print(table.frame.render())
    assert "\x1b[3" not in screen.file.getvalue()
    assert "batch" in screen.file.getvalue()
