"""`batchnorm lab`: re-run the published claims about batch norm, each with a verdict."""

import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from batchnorm.cli.commands import INTERRUPTED
from batchnorm.cli.lab_live import Silent, watcher
from batchnorm.cli.lab_tables import experiments_table, verdicts_table
from batchnorm.cli.options import cluster_option, jobs_option
from batchnorm.errors import BatchNormError, StoreError
from batchnorm.extras import require_lab, require_pictures
from batchnorm.records import read

__all__ = ["command"]

RUNS = Path("batchnorm-runs")


class Lab(click.Group):
    """The commands of the lab; an unknown one is answered with the known ones."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with our line for a name it does not know."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"command 'lab {args[0]}' is unknown; choose from {', '.join(self.commands)}")
        return super().resolve_command(ctx, args)


@click.group(
    "lab",
    cls=Lab,
    invoke_without_command=True,
    short_help="Re-run the published claims about batch norm, each with a verdict.",
)
@click.pass_context
def command(context: click.Context) -> None:
    """Re-run the published claims about batch norm on this machine: each with its source, a number and a verdict."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@command.command("list", short_help="The claims, and how long each takes.")
def show_list() -> None:
    """List the claims: number, name, question, and the time its runs take on one core, quick and in full."""
    require_lab()
    from batchnorm.lab.experiments import NAMES, load

    console = Console(highlight=False)
    console.print(experiments_table([load(name) for name in NAMES], console))
    console.print("quick, full: time of all runs on one core", style="dim", soft_wrap=True)


@command.command("run", short_help="Run claims by name, or all.")
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option(
    "--out",
    metavar="DIR",
    help="Folder of the survey; the same command goes on where it stopped. [default: one for these settings in "
    "batchnorm-runs]",
)
@click.option(
    "--seeds",
    metavar="N",
    help="Repetitions, at least 3. [default: the claim's own, 3 or more quick, else 5]",
)
@jobs_option
@click.option("--quick", is_flag=True, help="Shorter runs and fewer seeds; every criterion is still decided.")
@click.option(
    "--data",
    default="digits",
    show_default=True,
    metavar="NAME",
    help="digits, mnist, fashion-mnist or cifar10, for the claims that train on a data set.",
)
@cluster_option
@click.option(
    "--log",
    metavar="LIST",
    help="tensorboard, wandb, mlflow: each finished run and each verdict go there too, into a folder inside the "
    "claim's, offline.",
)
@click.option("--quiet", is_flag=True, help="Print only where the atlas lies.")
@click.pass_obj
def do_run(
    typed: str, *, names: tuple[str, ...], out: str | None, log: str | None, quiet: bool, **values: Any
) -> None:
    """Run the claims NAME..., or all of them, judge each by its criterion, and draw a page a claim and an atlas.

    Example: batchnorm lab run layer-norm --quick
    """
    console = Console(highlight=False)
    problem: BatchNormError | None = None
    with watcher(console, quiet=quiet) as display:
        try:
            folder = _survey(names, out, display, typed, {"log": log or (), **values})
        except KeyboardInterrupt:
            display.__exit__(None, None, None)
            _say_how_to_go_on(display, typed)
            sys.exit(INTERRUPTED)
        except BatchNormError as error:
            if display.folder is None or not display.verdicts:
                raise
            folder, problem = display.folder, error
    _show(folder, quiet=quiet)
    if problem is not None:
        raise problem


@command.command("report", short_help="Draw the pages of a survey again.")
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--quiet", is_flag=True, help="Print only where the atlas lies.")
def report(folder: Path | None, quiet: bool) -> None:
    """Judge and draw a survey again from its records alone; the same records give the same bytes.

    Without DIR it is the survey in batchnorm-runs that was written last.
    """
    require_lab()
    _show(_latest() if folder is None else folder, quiet=quiet)


@command.command("pictures", short_help="Draw charts of a survey as SVG and PNG files.")
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option(
    "--survey",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of the survey. [default: the one in batchnorm-runs that was written last]",
)
@click.option(
    "--out", metavar="FOLDER", type=click.Path(path_type=Path), help="Where to. [default: pictures, in DIR]"
)
@click.option(
    "--format", "formats", default="svg,png", show_default=True, metavar="LIST", help="svg, png or both."
)
@click.option(
    "--theme", "themes", default="light", show_default=True, metavar="LIST", help="light, dark or both."
)
@click.option("--quiet", is_flag=True, help="Print nothing.")
def pictures(
    names: tuple[str, ...], survey: Path | None, out: Path | None, formats: str, themes: str, quiet: bool
) -> None:
    """Draw charts of a survey as files named NAME-CHART.svg and NAME-CHART.png, from its records alone.

    NAME is a claim (all its charts) or a picture; without one, every chart is drawn. Needs Chrome or Chromium.

    Example: batchnorm lab pictures layer-norm-axes --theme light,dark
    """
    require_pictures()
    from batchnorm.lab.judging import judge_folder
    from batchnorm.report.pictures import write_pictures

    folder = _latest() if survey is None else survey
    written = write_pictures(
        folder / "pictures" if out is None else out,
        judge_folder(folder),
        names,
        formats=_listed(formats),
        themes=_listed(themes),
    )
    for path in written if not quiet else ():
        click.echo(path)


def _listed(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _survey(
    names: tuple[str, ...], out: str | None, display: Silent, typed: str, values: dict[str, Any]
) -> Path:
    require_lab()
    # Late, because this loads torch, which help and bad names do not need.
    from batchnorm.lab.experiments import chosen

    chosen(names)
    from batchnorm.lab.survey import run

    return run(names, out, watcher=display, command=typed, **values)


def _show(folder: Path, *, quiet: bool) -> None:
    """Judge and draw what the folder holds, print the verdicts unless `quiet`, and say where the atlas lies."""
    from batchnorm.lab.judging import judge_folder
    from batchnorm.report.atlas import write

    judged = judge_folder(folder)
    path = write(folder, judged)
    if not quiet:
        console = Console(highlight=False)
        console.print()
        console.print(verdicts_table([each for each in judged if each.planned], console))
        console.print()
    click.echo(f"Report: {path}")


def _latest() -> Path:
    from batchnorm.lab.judging import was_run
    from batchnorm.records.store import FILE_NAME

    surveys = [path for path in RUNS.glob("lab*") if was_run(path)]
    if not surveys:
        raise StoreError(
            f"there is no survey in '{RUNS}'; name its folder, or make one with `batchnorm lab run`"
        )
    return max(
        surveys, key=lambda path: max((path / name / FILE_NAME).stat().st_mtime for name in was_run(path))
    )


def _say_how_to_go_on(display: Silent, typed: str) -> None:
    if display.folder is None:
        click.echo("Stopped before the first run.", err=True)
        return
    # Counted on disk: the interruption may have come between a run's last line and the display.
    kept = sum(len(read(display.folder / name).runs) for name in display.expected)
    click.echo(
        f"Stopped; {kept} of {display.total} runs are kept in {display.folder}. To go on: {typed}", err=True
    )
