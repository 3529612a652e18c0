import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from batchnorm.bench import page, run
from batchnorm.bench.cases import DTYPES, LAYOUTS, PRESETS
from batchnorm.bench.results import read_results
from batchnorm.bench.settings import ACTIVATIONS
from batchnorm.bench.shapes import NETWORKS
from batchnorm.cli import bench as bench_command
from batchnorm.cli import main
from batchnorm.errors import MissingExtraError

CANDIDATES = ("torch", "batchnorm", "torch_compiled", "batchnorm_compiled", "copy", "warm_copy")
TINY = ["--shape", "4,3,5,5", "--seconds", "0.001", "--no-compile"]


def bench(*arguments):
    return CliRunner().invoke(main, ["bench", *arguments])


def test_it_prints_the_answer_the_targets_and_the_means():
    found = bench(*TINY, "--dtype", "float32", "--layout", "contiguous")
    assert found.exit_code == 0
    assert found.stderr.splitlines() == [
        "1/3  4x3x5x5 contiguous float32 bn",
        "2/3  4x3x5x5 contiguous float32 bn+relu",
        "3/3  4x3x5x5 contiguous float32 bn+add+relu",
    ]
    for text in (
        "BN alone, forward and backward, NCHW float32:",
        "Targets",
        "training, BN+act, NCHW float32",
        "Training: forward and backward: geometric means",
        "Evaluation: geometric means",
        "Where ours compares worst with torch",
        "Not run: torch compiled: switched off",
    ):
        assert text in found.stdout
    assert "\x1b" not in found.stdout
    assert found.stdout.splitlines()[-1] == "Nothing is kept; --out DIR keeps the records and draws them."


def test_json_is_one_value_on_stdout():
    found = bench(*TINY, "--dtype", "bfloat16", "--layout", "channels_last", "--act", "silu", "--json")
    assert found.exit_code == 0
    value = json.loads(found.stdout)
    assert [line["phase"] for line in value["cases"]] == ["forward", "forward_backward", "evaluation"] * 3
    assert {line["act"] for line in value["cases"]} == {None, "silu"}
    assert value["command"] == (
        "batchnorm bench --shape 4,3,5,5 --layout channels_last --dtype bfloat16 --act silu --seconds 0.001 "
        "--no-compile"
    )
    assert len(value["targets"]) == 14


def test_out_keeps_records_and_page_and_goes_on_where_it_stopped(tmp_path):
    out = str(tmp_path / "kept")
    first = bench(*TINY, "--act", "none", "--dtype", "float32", "--out", out)
    assert first.exit_code == 0
    assert first.stdout.splitlines()[-1] == f"Report: {out}/bench.html"
    path = tmp_path / "kept" / "bench.jsonl"
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:3]))
    again = bench(*TINY, "--act", "none", "--dtype", "float32", "--out", out)
    assert again.exit_code == 0
    assert (
        len(again.stderr.splitlines()) == 2
    )  # what was cut off: one pass of the first layout, and the second layout
    assert len(read_results(out).cases) == 6
    refused = bench(*TINY, "--dtype", "bfloat16", "--out", out)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert re.match(r"error: '.*' belongs to other settings", refused.stderr)


def test_ctrl_c_keeps_what_was_measured(tmp_path, monkeypatch):
    real = run.measure_case

    def interrupted(case, *arguments, **options):
        if case.residual:
            raise KeyboardInterrupt
        yield from real(case, *arguments, **options)

    monkeypatch.setattr(run, "measure_case", interrupted)
    out = str(tmp_path / "kept")
    found = bench(*TINY, "--dtype", "float32", "--out", out)
    assert found.exit_code == 130
    assert found.stderr.splitlines()[-1].startswith(
        f"Stopped; 12 measurements are kept in {out}. To go on: batchnorm bench"
    )
    assert len(read_results(out).cases) == 12
    assert bench(*TINY).stderr.splitlines()[-1] == "Stopped; without --out nothing is kept."


def test_without_the_extra_the_records_are_kept_and_the_missing_page_is_explained(tmp_path, monkeypatch):
    def missing():
        raise MissingExtraError("plotly not installed: pip install 'batchnorm[lab]'")

    monkeypatch.setattr(bench_command, "require_lab", missing)
    monkeypatch.setattr(page, "write", None)
    found = bench(*TINY, "--act", "none", "--dtype", "float32", "--out", str(tmp_path))
    assert found.exit_code == 0
    assert (
        "no page is drawn: plotly not installed: pip install 'batchnorm[lab]'"
        in found.stdout.splitlines()[-1]
    )
    assert len(read_results(tmp_path).cases) == 6


def test_threads_are_set_for_the_run_and_restored():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = bench(*TINY, "--act", "none", "--threads", "1", "--json")
        assert json.loads(found.stdout)["machine"]["threads"] == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


BAD = [
    (["--preset", "slow"], "--preset 'slow' is unknown; choose from quick, full"),
    (["--shape", "4,x"], "--shape '4,x' is not whole numbers"),
    (["--shape", "4"], "--shape '4' has 1 dimensions"),
    (["--shape", "1,2,3,4,5"], "5 dimensions"),
    (["--shape", "0,3,2,2"], "sizes of at least 1"),
    (["--shape", "99999,99999,99"], "at most"),
    (["--shape", "1,8"], "one value a channel"),
    (["--network", "ResNet-19"], "--network 'ResNet-19' is unknown; choose from ResNet-18"),
    (["--network", "LeNet", "--shape", "4,3"], "give one of them"),
    (["--layout", "NHWC"], "--layout 'NHWC' is unknown; choose from contiguous, channels_last"),
    (["--dtype", "float16"], "--dtype 'float16' is unknown; choose from float32, bfloat16"),
    (["--act", "tanh"], "--act 'tanh' is unknown; choose from own, none, relu"),
    (["--threads", "0"], "--threads '0' must be a whole number"),
    (["--threads", "two"], "--threads 'two' must be a whole number"),
    (["--seconds", "0"], "--seconds '0' must be above 0"),
    (["--seconds", "nan"], "--seconds 'nan' must be above 0"),
    (["--seconds", "long"], "--seconds 'long' is not a number"),
    (["extra"], "extra"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(arguments, said):
    found = bench(*arguments)
    assert (found.exit_code, found.stdout) == (2, "")
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1
    assert said in found.stderr


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    found = bench(*TINY, "--out", str(tmp_path / "file" / "below"))
    assert found.exit_code == 2
    assert re.match(r"error: cannot write to '.*below'", found.stderr)


def test_the_reference_is_complete():
    text = (Path(__file__).parents[2] / "docs" / "reference" / "bench.md").read_text(encoding="utf-8")
    context = main.make_context("batchnorm", ["--help"], resilient_parsing=True)
    options = {name for parameter in main.get_command(context, "bench").params for name in parameter.opts}
    named = {*options, *PRESETS, *LAYOUTS, *DTYPES, *ACTIVATIONS, *NETWORKS, *CANDIDATES}
    assert {name for name in named if f"`{name}`" not in text} == set()


def test_help_loads_no_torch():
    program = "import sys; from batchnorm.cli import main\ntry: main(['bench', '--help'])\nexcept SystemExit: pass\n"
    done = subprocess.run(
        [sys.executable, "-c", program + "assert 'torch' not in sys.modules"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--preset" in done.stdout
