import re

import pytest
from click.testing import CliRunner

from batchnorm.cli import compare as compare_command
from batchnorm.cli import main
from batchnorm.lab import arms, config, data, models, settings
from batchnorm.records import read
from tests.lab import tiny

MODEL = ["--model", "mlp", "--set", "model.hidden=5,4"]
SMALL = [*MODEL, "--lrs", "0.1", "--epochs", "1", "--seeds", "2", "--batch-size", "8", "--jobs", "1"]


@pytest.fixture
def compare(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.npz(tmp_path / "tiny.npz")

    def invoke(*arguments):
        return CliRunner().invoke(main, ["compare", "--data", "tiny.npz", *SMALL, *arguments])

    return invoke


def test_piped_it_prints_a_line_a_run_then_table_and_answer_and_last_the_report(compare, tmp_path):
    found = compare("--out", "out")
    assert found.exit_code == 0
    assert found.stderr == ""
    lines = found.stdout.splitlines()
    assert lines[0] == "4 runs; results in out"
    ended = [line for line in lines if re.match(r"\d/4  ", line)]
    assert [line[:3] for line in ended] == ["1/4", "2/4", "3/4", "4/4"]
    assert all(
        re.search(r"(none|batch after), rate 0.1, seed [01]: test accuracy \d+\.\d%", line) for line in ended
    )
    assert lines[-1] == "Report: out/report.html"
    assert "\x1b" not in found.stdout
    for word in ("test accuracy", "against none", "diverged", "time a step", "With batch norm"):
        assert word in found.stdout
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000
    assert read("out").config["command"].startswith("batchnorm compare --data tiny.npz --model mlp")


def test_quiet_prints_only_where_the_report_lies(compare):
    assert compare("--out", "out", "--quiet").output == "Report: out/report.html\n"


def test_the_same_command_shows_its_own_results_again(compare):
    first, again = compare(), compare()
    assert again.exit_code == 0
    assert again.stdout.startswith("4 runs, 4 of them done before; results in batchnorm-runs")
    assert again.stdout.splitlines()[1:] == first.stdout.splitlines()[5:]


BAD = [
    (["--epochs", "0"], "--epochs '0' must be at least 1"),
    (["--seeds", "-3"], "--seeds '-3' must be at least 1"),
    (["--batch-size", "1"], "--batch-size '1' must be at least 2"),
    (["--lrs", "0.1,quick"], "--lrs 'quick' is not a number"),
    (["--lrs", ""], "--lrs '' is empty"),
    (
        ["--norms", "none,bach"],
        "--norms 'bach' is unknown; choose from none, batch, layer, group, instance, local",
    ),
    (["--norms", "none,instance"], "'instance'"),
    (["--placement", "under"], "--placement 'under' is unknown"),
    (["--model", "lenett"], "'lenett'; known: lenet, mlp, vgg, resnet, lstm"),
    (["--model", "lenet"], "model.hidden: lenet has no such setting"),
    (["--data", "mnits"], "'mnits'; known are digits, mnist, fashion-mnist, cifar10"),
    (["--data", "gone.npz"], "gone.npz"),
    (["--data", "gone.py:load"], "gone.py"),
    (["--model", "gone.py:build"], "gone.py"),
    (["--optimizer", "lion"], "--optimizer 'lion' is unknown"),
    (["--dropout", "1"], "--dropout '1' must be"),
    (["--device", "tpu"], "--device 'tpu' is unknown"),
    (["--precision", "4-bit"], "--precision '4-bit' is unknown"),
    (["--jobs", "0"], "--jobs '0' must be at least 1"),
    (["--jobs", "all"], "--jobs 'all' is not a whole number"),
    (["--set", "speed=9"], "--set 'speed' is unknown; choose from momentum"),
    (["--set", "model.depth=9"], "model.depth"),
    (["--out", "tiny.npz"], "cannot write to 'tiny.npz'"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), BAD, ids=lambda value: "" if isinstance(value, str) else value[-1]
)
def test_bad_input_is_one_line_with_exit_code_2_and_nothing_is_written(compare, tmp_path, arguments, message):
    out = [] if "--out" in arguments else ["--out", "out"]
    found = compare(*out, *arguments)
    assert found.exit_code == 2
    assert found.stdout == ""
    assert re.fullmatch(r"error: .*\n", found.stderr)
    assert message in found.stderr
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".py"] == ["tiny.npz"]


FACTORIES = {
    "raises": "def build():\n    raise KeyError('no weights')\n",
    "broken": "def build(:\n",
    "nothing": "def build():\n    return None\n",
    "shape": "import torch\ndef build():\n    return torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), "
    "torch.nn.Linear(4, 7))\n",
    "missing": "x = 1\n",
    "later": """
import torch
class build(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act, self.b = torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3)
    def forward(self, x):
        if torch.is_grad_enabled() and isinstance(x, torch.Tensor):
            raise MemoryError("not enough")
        return self.b(self.act(self.a(x)))
""",
}


@pytest.mark.parametrize("name", FACTORIES)
def test_a_model_that_does_not_work_is_quoted_without_a_traceback(compare, tmp_path, name):
    (tmp_path / f"{name}.py").write_text(FACTORIES[name])
    found = compare("--model", f"{name}.py:build", "--set", "momentum=0.5")
    # The hidden widths above belong to the mlp, and a factory that takes none says so first.
    assert found.exit_code == 2
    assert "Traceback" not in found.output
    plain = CliRunner().invoke(
        main, ["compare", "--data", "tiny.npz", *SMALL[4:], "--model", f"{name}.py:build", "--out", "out"]
    )
    assert plain.exit_code == 2
    assert re.fullmatch(r"error: .*\n", plain.stderr)
    assert f"{name}.py" in plain.stderr
    expected = {
        "raises": "no weights",
        "broken": "SyntaxError",
        "nothing": "NoneType",
        "shape": "(2, 7)",
        "missing": "build",
        "later": "MemoryError: not enough",
    }
    assert expected[name] in plain.stderr


def test_a_model_of_the_users_own_is_compared(compare, tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "def build(num_classes, width=8):\n"
        "    return torch.nn.Sequential(torch.nn.Linear(6, width), torch.nn.BatchNorm1d(width), torch.nn.ReLU(),\n"
        "                               torch.nn.Linear(width, num_classes))\n"
    )
    arguments = ["--model", "net.py:build", "--set", "model.width=4", "--out", "out"]
    found = CliRunner().invoke(main, ["compare", "--data", "tiny.npz", *SMALL[4:], *arguments])
    assert found.exit_code == 0, found.stderr
    runs = read("out").runs.values()
    assert {(run.header["arm"], run.header["placement"]) for run in runs} == {
        ("none", None),
        ("batch", "own"),
    }
    assert {run.header["parameters"] for run in runs} == {28 + 15, 28 + 8 + 15}
    assert len({run.header["initial_weights"] for run in runs if run.header["seed"] == 0}) == 1
    (tmp_path / "net.py").write_text((tmp_path / "net.py").read_text() + "# changed\n")
    again = CliRunner().invoke(main, ["compare", "--data", "tiny.npz", *SMALL[4:], *arguments])
    assert again.exit_code == 2
    assert "model_digest" in again.stderr


def test_a_folder_of_another_configuration_is_refused(compare, tmp_path):
    assert compare("--out", "out").exit_code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    found = compare("--out", "out", "--seeds", "3")
    assert found.exit_code == 2
    assert re.fullmatch(
        r"error: 'out' holds results of another configuration: seeds is 2 there and 3 .*\n", found.stderr
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_runs_that_diverge_are_named(compare):
    found = compare("--out", "out", "--norms", "none", "--lrs", "1e30")
    assert found.exit_code == 0
    assert "none, rate 1e+30, seed 0: diverged in epoch 1" in found.stdout
    assert re.search(r"diverged\s+2 of 2|2 of 2", found.stdout)


def test_stopping_says_how_to_go_on(compare, monkeypatch):
    from batchnorm.lab import pool

    monkeypatch.setattr(pool, "_train", stop_at_the_second(pool._train))
    found = compare("--out", "out")
    assert found.exit_code == 130
    assert found.stderr.startswith(
        "Stopped; 1 of 4 runs are kept in out. To go on: batchnorm compare --data tiny.npz "
    )
    assert len(read("out").runs) == 1
    monkeypatch.undo()


def stop_at_the_second(train):
    calls = []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*arguments)

    return stopping


def test_stopping_before_anything_began_says_so(compare, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(compare_command, "_compare", stop)
    found = compare()
    assert (found.exit_code, found.stderr) == (130, "Stopped before the first run.\n")


def test_help_names_everything_that_can_be_chosen():
    text = " ".join(CliRunner().invoke(main, ["compare", "--help"], terminal_width=100).output.split())
    for names in (arms.KNOWN, models.KNOWN, data.KNOWN, config.OPTIMIZERS, config.PRECISIONS, config.DEVICES):
        assert ", ".join(names) in text
    for names in (settings.FURTHER, config.PLACEMENTS):
        assert ", ".join(names) in text


def test_defaults_are_those_of_the_settings():
    options = {option.name: option.default for option in compare_command.command.params}
    given = {
        name: default
        for name, default in options.items()
        if isinstance(default, str) and name not in ("out", "jobs")
    }
    assert config.CompareConfig.of(**given) == config.CompareConfig.of()
    assert len(given) >= 9
