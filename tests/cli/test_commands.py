import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from batchnorm import __version__
from batchnorm.cli import main
from batchnorm.cli import report as report_command
from batchnorm.errors import UsageError


def invoke(*arguments):
    return CliRunner().invoke(main, arguments)


MISTAKES = [
    (("compere",), "command 'compere' is unknown; choose from compare, lab"),
    (("compare", "--norm", "batch"), "--norm"),
    (("compare", "extra"), "extra"),
    (("compare", "--epochs"), "--epochs"),
    (("--wat",), "--wat"),
    (("report",), "DIR"),
    (("report", "a", "b"), "b"),
]


@pytest.mark.parametrize(("arguments", "quoted"), MISTAKES)
def test_a_mistake_is_answered_with_one_line_and_exit_code_2(arguments, quoted):
    found = invoke(*arguments)
    assert found.exit_code == 2
    assert found.stdout == ""
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1
    assert quoted in found.stderr


def test_help_and_version():
    assert invoke("--version").output == f"batchnorm, version {__version__}\n"
    for arguments in ((), ("--help",), ("-h",)):
        found = invoke(*arguments)
        assert found.exit_code == 0
        assert "compare" in found.output
        assert "report" in found.output


def test_messages_of_several_lines_become_one(monkeypatch):
    def fail(*_, **__):
        raise UsageError("one\n   two")

    monkeypatch.setattr(report_command, "show", fail)
    found = invoke("report", "x")
    assert (found.exit_code, found.stderr) == (2, "error: one two\n")


def test_the_disk_and_the_reader_may_fail_too(monkeypatch):
    def fail(error):
        def show(*_, **__):
            raise error

        monkeypatch.setattr(report_command, "show", show)
        return invoke("report", "x")

    found = fail(OSError(28, "No space left on device", "x/report.html"))
    assert (found.exit_code, found.stderr) == (2, "error: 'x/report.html': No space left on device\n")
    assert fail(KeyboardInterrupt()).exit_code == 130


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("compare",), "out of memory; try a smaller --batch-size, model or data set, or fewer --jobs"),
        (("lab", "run", "lenet"), "out of memory; try fewer --jobs"),
        (("recalibrate", "model.py:net", "--out", "new.pt"), "out of memory; try a smaller --batch-size"),
        (("bench",), "out of memory; try smaller shapes, by --shape or --network"),
        (("report", "x"), "out of memory"),
        (("lab", "list"), "out of memory"),
    ],
)
def test_out_of_memory_names_only_options_that_the_command_has(monkeypatch, arguments, said):
    def starve(*_, **__):
        raise MemoryError

    monkeypatch.setattr(click.Command, "invoke", starve)
    found = invoke(*arguments)
    assert (found.exit_code, found.stderr) == (2, f"error: {said}\n")
    command, *further = arguments
    options = {word.rstrip(",") for word in said.split() if word.startswith("--")}
    typed = invoke(command, *further[:1], "--help") if command == "lab" else invoke(command, "--help")
    assert options <= set(typed.output.replace(",", " ").split())


def test_a_reader_that_left_is_told_nothing():
    program = "from batchnorm.cli import main; main(['compare', '--help'])"
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


LIGHT = """
import sys
from batchnorm.cli import main
try:
    main(sys.argv[1:])
except SystemExit as left:
    code = left.code
heavy = [name for name in ("torch", "lightning", "sklearn", "batchnorm.lab") if name in sys.modules]
assert not heavy, heavy
sys.exit(code)
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["compare", "--help"], ["lab", "run", "--help"], ["--version"], ["compere"]]
)
def test_help_loads_no_torch(arguments):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert "AssertionError" not in done.stderr
    assert done.returncode == (2 if arguments == ["compere"] else 0)


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "batchnorm", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == f"batchnorm, version {__version__}\n"
