import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from batchnorm.cli import main
from batchnorm.lab import experiments, judging
from batchnorm.lab.experiments import layer_norm
from batchnorm.records import read
from tests.lab.test_cluster import dask  # noqa: F401 (a fixture)
from tests.report.browsing import chromium  # noqa: F401 (a fixture)

TWO = ("before-and-after", "layer-norm")


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """The command in a folder of its own, with two experiments of milliseconds."""
    monkeypatch.chdir(tmp_path)
    for module in (experiments, judging):
        monkeypatch.setattr(module, "NAMES", TWO)

    def invoke(*arguments):
        return CliRunner().invoke(main, ["lab", *arguments])

    return invoke


def test_list_shows_number_name_question_and_cost(lab, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    found = lab("list")
    assert found.exit_code == 0
    row = next(line for line in found.stdout.splitlines() if "layer-norm" in line)
    assert re.match(
        r" +11  layer-norm +Does a sample's output depend on the other samples of its batch\? .*ms +\d+ ms",
        row,
    )
    monkeypatch.setenv("COLUMNS", "50")
    assert "Does a sample" not in lab("list").stdout


def test_piped_it_prints_a_line_a_verdict_then_the_table_and_last_the_atlas(lab, tmp_path):
    found = lab("run", "all", "--quick", "--jobs", "1", "--out", "out")
    assert (found.exit_code, found.stderr) == (0, "")
    lines = found.stdout.splitlines()
    assert re.fullmatch(r"15 runs for 2 claims, about \d+ s; results in out", lines[0])
    assert re.fullmatch(
        r"3/15  ✓ before-and-after reproduced: 1.00 \[1.00, 1.00\] .*; about \d+ s left", lines[1]
    )
    assert lines[2] == "15/15  ✓ layer-norm reproduced: 2.00 [2.00, 2.00] largest change of an output"
    assert lines[-1] == "Report: out/atlas.html"
    assert "\x1b" not in found.stdout
    there = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert there == {"atlas.html", "plotly.min.js", "verdicts.jsonl", *TWO, *(f"{name}.html" for name in TWO)}


def test_quiet_prints_only_where_the_atlas_lies(lab):
    run = lab("run", "layer-norm", "--quick", "--jobs", "1", "--out", "out", "--quiet")
    assert run.output == "Report: out/atlas.html\n"
    assert lab("report", "out", "--quiet").output == run.output


def test_report_draws_the_same_bytes_and_finds_the_last_survey(lab, tmp_path):
    assert lab("run", "all", "--quick", "--jobs", "1").exit_code == 0
    folder = tmp_path / "batchnorm-runs" / "lab-quick"
    pages = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert len(pages) >= 5
    for page in folder.glob("*.html"):
        page.unlink()
    found = lab("report")
    assert found.stdout.splitlines()[-1] == f"Report: {folder.relative_to(tmp_path)}/atlas.html"
    assert {path: path.read_bytes() for path in pages} == pages


def test_a_contradiction_shows_in_terminal_verdicts_and_page(lab, tmp_path, monkeypatch):
    lab("run", "layer-norm", "--quick", "--jobs", "1", "--out", "out")
    monkeypatch.setattr(layer_norm, "LEAST", 3.0)
    found = lab("report", "out")
    assert "~ partly (quick)" in found.stdout
    assert json.loads((tmp_path / "out/verdicts.jsonl").read_text().splitlines()[-1])["verdict"] == "partly"
    assert "Reproduced only in part." in (tmp_path / "out/layer-norm.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "lenet5"], "experiment 'lenet5' is unknown; choose from all, before-and-after, layer-norm"),
        (["run"], "no experiment is named; choose from all, before-and-after, layer-norm"),
        (["run", "all", "--seeds", "1"], "--seeds '1' must be at least 3"),
        (["run", "all", "--jobs", "none"], "--jobs 'none' is not a whole number of at least 1"),
        (["run", "all", "--data", "imagenet"], "--data 'imagenet' is unknown; choose from digits, mnist"),
        (
            ["run", "all", "--cluster", "slurm"],
            "--cluster 'slurm' is unknown; choose dask://HOST:PORT or ray",
        ),
        (["run", "all", "--cluster", "dask://host"], "--cluster 'dask://host' needs a host and a port"),
        (
            ["run", "all", "--log", "paper"],
            "--log 'paper' is unknown; choose from tensorboard, wandb, mlflow",
        ),
        (["run", "all", "--log", "wandb,wandb"], "--log 'wandb,wandb' has 'wandb' twice"),
        (["walk"], "command 'lab walk' is unknown; choose from list, run, report, pictures"),
        (["report", "nowhere"], "'nowhere' holds no results of the lab"),
        (["report"], "there is no survey in 'batchnorm-runs'"),
        (["pictures"], "there is no survey in 'batchnorm-runs'"),
        (["pictures", "--survey", "nowhere"], "'nowhere' holds no results of the lab"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(lab, tmp_path, arguments, message):
    found = lab(*arguments)
    assert found.exit_code == 2
    assert found.stdout == ""
    assert found.stderr.startswith(f"error: {message}")
    assert found.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["--cluster", "dask://host:1"], "dask"),
        (["--cluster", "ray"], "ray"),
        (["--log", "mlflow"], "mlflow"),
    ],
)
def test_a_missing_extra_is_one_line_with_its_command(lab, tmp_path, monkeypatch, arguments, extra):
    monkeypatch.setattr("batchnorm.extras._installed", lambda _: False)
    found = lab("run", "all", *arguments)
    assert (found.exit_code, found.stdout, found.stderr.count("\n")) == (2, "", 1)
    assert found.stderr.endswith(f"pip install 'batchnorm[{extra}]'\n")
    assert os.listdir(tmp_path) == []


def test_a_cluster_and_a_log_change_nothing_in_the_output(lab, dask, tmp_path):  # noqa: F811
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    fixed = ("run", "layer-norm", "--quick", "--jobs", "1")
    found = lab(*fixed, "--out", "there", "--cluster", dask, "--log", "tensorboard")
    assert (found.exit_code, found.stderr) == (0, "")
    here = lab(*fixed, "--out", "here").stdout
    assert [
        re.sub(r"[\d.]+ m?s$", "", text) for text in found.stdout.replace("there", "here").splitlines()
    ] == [re.sub(r"[\d.]+ m?s$", "", text) for text in here.splitlines()]
    logged = set(os.listdir(tmp_path / "there/layer-norm/tensorboard"))
    assert logged == {*read(tmp_path / "there/layer-norm").runs, "verdict-1"}


def test_an_experiment_that_fails_ends_in_one_line_after_the_others_pages(lab, tmp_path, monkeypatch):
    def fail(task):
        raise ZeroDivisionError("out of luck")

    broken = layer_norm.EXPERIMENT.__class__(**{**vars(layer_norm.EXPERIMENT), "run": fail})
    monkeypatch.setattr(layer_norm, "EXPERIMENT", broken)
    found = lab("run", "all", "--quick", "--jobs", "1", "--out", "out")
    assert found.exit_code == 2
    assert re.match(
        r"error: experiment 'layer-norm', run batch,seed=0: ZeroDivisionError: out of luck", found.stderr
    )
    assert found.stdout.splitlines()[-1] == "Report: out/atlas.html"
    assert (tmp_path / "out/before-and-after.html").exists()
    assert "No verdict yet." in (tmp_path / "out/layer-norm.html").read_text()


@pytest.mark.browser
def test_pictures_of_a_survey_are_written_and_named(chromium, lab, tmp_path):  # noqa: F811
    assert lab("run", "all", "--quick", "--jobs", "1", "--out", "out").exit_code == 0
    arguments = ["pictures", "layer-norm-axes", "before-and-after", "--survey", "out", "--format", "svg"]
    found = lab(*arguments, "--theme", "light,dark")
    names = ["before-and-after-histograms", "layer-norm-axes"]
    paths = [f"out/pictures/{name}{theme}.svg" for name in names for theme in ("", "-dark")]
    assert (found.exit_code, found.output.splitlines()) == (0, paths)
    assert all((tmp_path / path).read_text().startswith("<svg ") for path in paths)
    assert lab(*arguments, "--out", "there", "--quiet").output == ""
    assert sorted(os.listdir(tmp_path / "there")) == [f"{name}.svg" for name in names]
    unknown = lab("pictures", "nothing", "--survey", "out")
    assert (unknown.exit_code, unknown.stderr.count("\n")) == (2, 1)
    assert unknown.stderr.startswith(
        "error: picture 'nothing' is unknown here; choose from before-and-after-hist"
    )


def test_help_names_the_commands(lab):
    assert lab().output == lab("--help").output
    names = re.findall(r"^  (list|pictures|run|report) ", lab().output, flags=re.MULTILINE)
    assert names == ["list", "pictures", "report", "run"]


def test_drawing_a_survey_loads_no_torch(lab):
    assert lab("run", "all", "--quick", "--jobs", "1", "--out", "out").exit_code == 0
    code = (
        "import sys\nfrom batchnorm.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code\n"
        "print(sorted({'torch', 'sklearn', 'lightning', 'joblib'} & sys.modules.keys()))"
    )
    for arguments in (["lab", "report", "out"], ["lab", "list"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are POSIX's")
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_says_how_to_go_on(tmp_path, jobs):
    command = [
        sys.executable,
        "-m",
        "batchnorm",
        "lab",
        "run",
        "layer-norm",
        f"--jobs={jobs}",
        "--seeds=400",
        "--out=out",
    ]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    file = tmp_path / "out/layer-norm/results.jsonl"
    while process.poll() is None and not (file.exists() and b'"final"' in file.read_bytes()):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    kept = file.read_bytes().count(b'"kind":"final"')
    assert process.returncode == 130
    assert 0 < kept < 1600
    typed = f"batchnorm lab run layer-norm --jobs={jobs} --seeds=400 --out=out"
    assert errors == f"Stopped; {kept} of 1600 runs are kept in out. To go on: {typed}\n"
