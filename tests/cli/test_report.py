import subprocess
import sys

import pytest
from click.testing import CliRunner

from batchnorm.cli import main
from batchnorm.lab.compare import compare, prepare
from tests.lab import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("report")
    config = tiny.config(data=str(tiny.npz(base / "tiny.npz")), seeds=2, epochs=1)
    return compare(prepare(config, base / "out"), jobs=1)


def report(*arguments, width=80):
    return CliRunner().invoke(main, ["report", *map(str, arguments)], env={"COLUMNS": str(width)})


def test_the_page_is_drawn_again_byte_for_byte(folder):
    assert report(folder).exit_code == 0
    first = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    found = report(folder, "--quiet")
    assert found.output == f"Report: {folder / 'report.html'}\n"
    assert (folder / "report.html").read_bytes() == first


def test_it_needs_no_torch(folder):
    program = (
        "import sys\nfrom batchnorm.cli import main\n"
        "try:\n    main(['report', sys.argv[1]])\nexcept SystemExit as left:\n    assert not left.code\n"
        "assert 'torch' not in sys.modules\nprint('light')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.endswith("light\n"), done.stderr


@pytest.mark.parametrize("width", [30, 60, 80, 100, 200])
def test_no_line_of_the_table_is_wider_than_the_terminal_nor_cut(folder, width):
    text = report(folder, width=width).stdout
    table = text.split("\n\n")[0]
    assert max(len(line) for line in table.splitlines()) <= width
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    words = " ".join(text.split())
    assert "none" in words
    assert "batch" in words


@pytest.mark.parametrize(
    ("prepare_folder", "message"),
    [
        (lambda path: None, "cannot read '.*results.jsonl': No such file or directory"),
        (lambda path: (path / "results.jsonl").write_text(""), "holds no results yet"),
        (
            lambda path: (path / "results.jsonl").write_text("{}\n{}\n"),
            "is damaged|does not start with a config",
        ),
        (lambda path: (path / "results.jsonl").write_bytes(b"\xff\xfe\x00"), "holds no results yet|damaged"),
    ],
)
def test_a_folder_without_results_is_one_line(tmp_path, prepare_folder, message):
    import re

    prepare_folder(tmp_path)
    found = report(tmp_path)
    assert found.exit_code == 2
    assert re.fullmatch(r"error: .*\n", found.stderr)
    assert re.search(message, found.stderr)
