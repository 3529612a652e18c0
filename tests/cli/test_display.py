import io
import threading

from rich.console import Console

from batchnorm.cli.display import Display, Frame, bare_table, say, suitable


def terminal(*, is_one=True):
    return Console(file=io.StringIO(), force_terminal=is_one, width=20, highlight=False)


def test_the_parts_are_asked_for_under_the_lock_and_the_status_stands_below_the_table():
    held, frames = [], []

    def parts():  # for the first time while the frame is made
        other = threading.Thread(
            target=lambda: held.extend(not each.lock.acquire(blocking=False) for each in frames)
        )
        other.start()
        other.join()
        table = bare_table()
        table.add_column("arm")
        return table, "3 of 4 runs"

    frames.append(Frame(terminal(), parts))
    screen = terminal(is_one=False)
    screen.print(frames[0].render())
    assert [line.rstrip() for line in screen.file.getvalue().splitlines()] == ["arm", "3 of 4 runs"]
    assert held == [True]


def test_the_frame_is_there_as_long_as_the_display_and_may_be_closed_twice():
    display = Display()
    display.frame = Frame(terminal(), lambda: (None, "Loading"))
    with display:
        assert display.frame.live.is_started
        display.__exit__(None, None, None)
        assert not display.frame.live.is_started
    assert not display.frame.live.is_started


def test_a_pipe_gets_plain_lines_and_quiet_wins_over_both():
    def chosen(console, *, quiet=False):
        return suitable(
            console, quiet=quiet, silent=lambda: "silent", plain=lambda _: "plain", live=lambda _: "live"
        )

    assert chosen(terminal()) == "live"
    assert chosen(terminal(is_one=False)) == "plain"
    assert chosen(terminal(), quiet=True) == "silent"


def test_a_line_is_said_whole_whatever_is_in_it():
    screen = terminal()
    say(screen, "a [bold]long[/bold] line of more than twenty characters")
    assert screen.file.getvalue() == "a [bold]long[/bold] line of more than twenty characters\n"
