"""`batchnorm env`."""

import json

from click.testing import CliRunner

import batchnorm as bn
from batchnorm import installation
from batchnorm.cli.env import command


def run(*args: str):
    result = CliRunner().invoke(command, args)
    assert result.exit_code == 0, result.output
    return result


def test_json_is_what_the_function_gives() -> None:
    assert json.loads(run("--json").stdout) == json.loads(json.dumps(bn.env().to_dict()))


def test_the_table_shows_every_field_and_warnings_go_to_stderr(monkeypatch) -> None:
    monkeypatch.setattr(installation, "loaded_runtimes", lambda: ["/a[b]/libgomp.so.1", "/b/libiomp5.so"])
    result = run()
    for name in ("batchnorm", "torch", "backend", "why", "isa", "openmp", "huge pages"):
        assert any(line.startswith(name) for line in result.stdout.splitlines()), name
    assert "/a[b]/libgomp.so.1" in result.stdout
    assert result.stderr.startswith("warning: 2 OpenMP runtimes")
