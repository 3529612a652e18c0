"""`batchnorm compare`: does it help my model? Train with and without, at each one's best rate, and report."""

import sys
from typing import Any

import click
from rich.console import Console

from batchnorm.cli.commands import INTERRUPTED
from batchnorm.cli.live import Silent, observer
from batchnorm.cli.options import cluster_option, jobs_option
from batchnorm.cli.outcome import show
from batchnorm.errors import UsageError
from batchnorm.extras import require_lab
from batchnorm.records import read

__all__ = ["command"]


@click.command("compare", short_help="Train a network with and without batch norm, and report.")
@click.option(
    "--norms",
    default="none,batch",
    show_default=True,
    metavar="LIST",
    help="none, batch, layer, group, instance, local, ghost, renorm, frozen, domain, sync, recurrent.",
)
@click.option(
    "--placement",
    metavar="LIST",
    help="before, after, or both: where the norm stands relative to the activation. [default: after]",
)
@click.option(
    "--model",
    default="lenet",
    show_default=True,
    metavar="NAME",
    help="lenet, mlp, vgg, resnet, lstm, or your own as file.py:factory or package.module:factory.",
)
@click.option(
    "--data",
    default="digits",
    show_default=True,
    metavar="NAME",
    help="digits, mnist, fashion-mnist, cifar10, an .npz file with x_train, y_train, x_test, y_test, "
    "or file.py:name giving loaders.",
)
@click.option(
    "--lrs",
    metavar="LIST",
    help="Learning rates every arm is tried at. [default: a grid for the optimizer, extended once where the best "
    "rate lies at its edge]",
)
@click.option(
    "--batch-size", default="32", show_default=True, metavar="N", help="Samples a step, at least 2."
)
@click.option(
    "--epochs", default="10", show_default=True, metavar="N", help="Passes over the training samples."
)
@click.option("--seeds", default="5", show_default=True, metavar="N", help="Repetitions, numbered from 0.")
@click.option("--optimizer", default="sgd", show_default=True, metavar="NAME", help="sgd, adam, adamw.")
@click.option("--dropout", default="0", show_default=True, metavar="P", help="Dropout probability, below 1.")
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda, mps.")
@click.option(
    "--precision",
    default="32-true",
    show_default=True,
    metavar="NAME",
    help="32-true, 64-true, bf16-true, 16-true, bf16-mixed, 16-mixed.",
)
@jobs_option
@click.option(
    "--devices",
    default="1",
    show_default=True,
    metavar="N",
    help="Processes that each run's batches are split over, one a device.",
)
@cluster_option
@click.option(
    "--log",
    metavar="LIST",
    help="tensorboard, wandb, mlflow: each finished run goes there too, into a folder inside DIR, offline.",
)
@click.option(
    "--out",
    metavar="DIR",
    help="Folder of the results; the same command goes on where it stopped. [default: one for these settings in "
    "batchnorm-runs]",
)
@click.option(
    "--set",
    "further",
    multiple=True,
    metavar="KEY=VALUE",
    help="momentum, nesterov, weight_decay, beta1, beta2, label_smoothing, or model.NAME for the model. Repeatable.",
)
@click.option("--quiet", is_flag=True, help="Print only where the report lies.")
@click.pass_obj
def command(
    typed: str,
    *,
    out: str | None,
    jobs: str | None,
    cluster: str | None,
    log: str | None,
    quiet: bool,
    **values: Any,
) -> None:
    """Train a network with and without batch norm, each at its own best learning rate, and report.

    Without options: LeNet on scikit-learn's handwritten digits, in about a minute on two cores.
    DIR/results.jsonl gets every number, DIR/report.html shows them.
    """
    console = Console(highlight=False)
    with observer(console, quiet=quiet) as display:
        try:
            folder = _compare(
                display, values, out, typed, {"jobs": jobs, "cluster": cluster, "log": log or ()}
            )
        except KeyboardInterrupt:
            display.__exit__(None, None, None)
            _say_how_to_go_on(display, typed)
            sys.exit(INTERRUPTED)
    show(folder, quiet=quiet)


def _compare(
    display: Silent, values: dict[str, Any], out: str | None, typed: str, how: dict[str, Any]
) -> Any:
    require_lab()
    # Late, because this loads torch, which help does not need.
    from batchnorm.lab.compare import check, compare, prepare
    from batchnorm.lab.config import CompareConfig

    try:
        config = CompareConfig.of(**values)
        check(config, **how)
        return compare(prepare(config, out), observer=display, command=typed, **how)
    except SystemExit as error:  # a script would take the user's own sys.exit(0) for success
        raise UsageError(
            f"the code of --model or --data ended the program: sys.exit({error.code!r})"
        ) from None


def _say_how_to_go_on(display: Silent, typed: str) -> None:
    if display.folder is None:
        click.echo("Stopped before the first run.", err=True)
        return
    # Counted on disk: the interruption may have come between a run's last line and the display.
    kept = len(read(display.folder).runs)
    click.echo(
        f"Stopped; {kept} of {display.total} runs are kept in {display.folder}. To go on: {typed}", err=True
    )
