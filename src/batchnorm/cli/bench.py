"""`batchnorm bench`: how fast the layers are on this machine, against torch's and against copies."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from batchnorm.cli.bench_view import show
from batchnorm.cli.commands import INTERRUPTED
from batchnorm.errors import MissingExtraError
from batchnorm.extras import require_lab

__all__ = ["command"]


@click.command("bench", short_help="Measure the layers' speed on this machine.")
@click.option("--preset", default="quick", show_default=True, metavar="NAME", help="Shapes: quick, full.")
@click.option("--shape", multiple=True, metavar="N,C,H,W", help="A shape of your own (or N,C); repeatable.")
@click.option("--network", metavar="LIST", help="Only shapes of these, as ResNet-18,MobileNetV2.")
@click.option("--layout", metavar="LIST", help="contiguous, channels_last. [default: both]")
@click.option("--dtype", metavar="LIST", help="float32, bfloat16. [default: both]")
@click.option(
    "--act",
    metavar="NAME",
    help="Activation in place of the network's own (relu for --shape); none measures the norm alone.",
)
@click.option("--threads", metavar="N", help="Threads of torch. [default: torch's]")
@click.option(
    "--seconds", default="0.4", show_default=True, metavar="S", help="Time for one measurement, about."
)
@click.option("--no-compile", is_flag=True, help="Leave out torch.compile.")
@click.option(
    "--out", metavar="DIR", help="Folder for bench.jsonl and bench.html; the same command goes on there."
)
@click.option("--json", "as_json", is_flag=True, help="Print records, summary and targets as JSON.")
@click.pass_obj
def command(typed: str, *, out: str | None, as_json: bool, no_compile: bool, **values: Any) -> None:
    """Measure BN, BN + activation and BN + add + activation: ours, torch's, both compiled, and copies.

    Ratios are medians of interleaved rounds in this process. The default takes about two minutes on two cores.
    """
    # Late, because what follows loads torch, which help does not need.
    from batchnorm.bench.settings import Settings

    settings = Settings.of(compiled=not no_compile, **values)
    cases = settings.cases()

    from batchnorm.bench.machine import IDENTITY, environment
    from batchnorm.bench.results import Results, append, open_results
    from batchnorm.bench.run import measure

    with _threads(settings.threads):
        header = {
            "kind": "bench",
            "schema": 1,
            "machine": environment(),
            "settings": settings.record(),
            "command": settings.command(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        results = open_results(out, header, IDENTITY) if out else Results([header])
        progress = Console(stderr=True, highlight=False)
        done = results.done()
        total, count = len(cases), len({name for name, _ in done})

        def tell(name: str) -> None:
            nonlocal count
            count += 1
            progress.print(f"{count}/{total}  {name}", markup=False, soft_wrap=True)

        try:
            for line in measure(
                cases, settings.effort(), done, compile_anything=settings.compiled, tell=tell
            ):
                if out:
                    append(out, [line])
                results.add(line)
        except KeyboardInterrupt:
            kept = f"{len(results.cases)} measurements are kept in {out}. To go on: {typed}"
            click.echo(f"Stopped; {kept if out else 'without --out nothing is kept.'}", err=True)
            sys.exit(INTERRUPTED)
    _present(results, out, as_json)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _present(results: Any, out: str | None, as_json: bool) -> None:
    page = _page(results, out) if out else None
    if as_json:
        from batchnorm.bench.digest import digest

        click.echo(json.dumps(digest(results), ensure_ascii=True))
        return
    show(results, Console(highlight=False))
    if out is None:
        click.echo("Nothing is kept; --out DIR keeps the records and draws them.")
    elif isinstance(page, Path):
        click.echo(f"Report: {page}")
    else:
        click.echo(f"Records: {Path(out) / 'bench.jsonl'}; {page}")


def _page(results: Any, out: str) -> Path | str:
    """The page, or why there is none."""
    try:
        require_lab()
    except MissingExtraError as error:
        return f"no page is drawn: {error}"
    from batchnorm.bench.page import write

    return write(results, out)
