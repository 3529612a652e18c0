"""Every page keeps its promises: its Python runs, its links lead somewhere, its commands exist."""

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from batchnorm.cli import main
from batchnorm.lab import arms
from batchnorm.lab.config import DEFAULT_LRS
from batchnorm.lab.experiments import NAMES, load
from batchnorm.lab.models.build import RECIPES
from batchnorm.lab.settings import FURTHER

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


class Block(NamedTuple):
    language: str
    line: int
    text: str


def blocks(page):
    found, language, start, lines = [], None, 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = re.match(r"\s*```(\S*)", line)
        if not fence:
            lines.append(line)
        elif language is None:
            language, start, lines = fence[1], number, []
        else:
            assert not fence[1], f"{page}:{number}: a block opens inside another"
            found.append(Block(language, start, "\n".join(lines) + "\n"))
            language = None
    assert language is None, f"{page}:{start}: the block is never closed"
    return found


def prose(page):
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page):
    heads = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


def test_there_are_pages():
    assert {"README.md", "docs/index.md", "docs/reference/layers.md"} <= set(IDS)


def run(page, folder):
    """One namespace a page; a block that starts with `# name.py` is also that file."""
    namespace = {"__name__": "__page__"}
    for block in blocks(page):
        if block.language != "python":
            continue
        title = re.match(r"# (\w+\.py)\n", block.text)
        if title:
            (folder / title[1]).write_text(block.text)
        padded = "\n" * block.line + block.text
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(padded, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(page, tmp_path)


def test_a_block_that_fails_is_seen(tmp_path):
    page = tmp_path / "bad.md"
    page.write_text("# Bad\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError):
        run(page, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_exist(page):
    for block in blocks(page):
        if block.language in ("sh", "console", "bash"):
            for line in block.text.replace("\\\n", " ").splitlines():
                check_command(shlex.split(line.removeprefix("$ "), comments=True))
    # README and its neighbours also speak of what is not there yet.
    for text in re.findall(r"`(batchnorm [a-z][^`]*)`", prose(page)) if page.parent != ROOT else ():
        check_command(shlex.split(text))


def check_command(words):
    if words[:1] != ["batchnorm"]:
        return
    for word in words:
        if word in ("|", ">", "&&"):
            words = words[: words.index(word)]
    if words[1:] and not words[1].startswith("-"):
        context = main.make_context("batchnorm", ["--help"], resilient_parsing=True)
        command = main.get_command(context, words[1])
        assert command is not None, f"no command {words[1]!r}"
        if isinstance(command, click.Group) and words[2:]:
            assert words[2] in command.commands, f"{words[1]} has no command {words[2]!r}"
            command, words = command.commands[words[2]], words[1:]
        options = {name for parameter in command.params for name in parameter.opts} | {"-h", "--help"}
        for word in words[2:]:
            assert not word.startswith("-") or word.split("=")[0] in options, (
                f"{words[1]} has no option {word}"
            )


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_relative_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)) + re.findall(
        r'(?:src|href)="([^"]+)"', prose(page)
    ):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} leads nowhere"
        assert linked.is_relative_to(ROOT), f"{target} leads out of the project"
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked), (
                f"{target}: no such heading; there are {sorted(anchors(linked))}"
            )


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_nothing_of_this_machine_is_named(page):
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"(?<![\w.~/-])/(?:home|root|work|opt|mnt|tmp|Users|private)/\S*", text)
    assert not found
    assert str(ROOT) not in text


def test_the_reference_of_compare_is_complete():
    text = (ROOT / "docs/reference/compare.md").read_text(encoding="utf-8")
    context = main.make_context("batchnorm", ["--help"], resilient_parsing=True)
    options = {name for parameter in main.get_command(context, "compare").params for name in parameter.opts}
    named = {
        *options,
        *arms.KNOWN,
        *RECIPES,
        *FURTHER,
        *(
            f"{key}={_written(default)}"
            for recipe in RECIPES.values()
            for key, (default, _) in recipe.options.items()
        ),
    }
    assert {name for name in named if f"`{name}`" not in text} == set()
    for rates in DEFAULT_LRS.values():
        assert ", ".join(f"{rate:g}" for rate in rates) in text


def test_the_reference_of_the_lab_is_complete():
    text = (ROOT / "docs/reference/lab.md").read_text(encoding="utf-8")
    context = main.make_context("batchnorm", ["--help"], resilient_parsing=True)
    run = main.get_command(context, "lab").commands["run"]
    options = {name for parameter in run.params for name in parameter.opts if name.startswith("--")}
    assert {name for name in options if f"`{name}`" not in text} == set()
    for name in NAMES:
        claim = load(name)
        assert f"| {claim.number} | `{name}` | {claim.title} | {claim.criterion} |" in text, name


def _written(default):
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
