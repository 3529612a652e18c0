"""`batchnorm recalibrate`: measure the running statistics of a trained model anew, and write its weights."""

import warnings
from pathlib import Path

import click

from batchnorm.errors import RecalibrationWarning, UsageError
from batchnorm.extras import require_lab

__all__ = ["command"]


@click.command("recalibrate", short_help="Measure a trained model's running statistics anew.")
@click.argument("model")
@click.option("--weights", metavar="FILE", help="The model's state_dict. [default: as MODEL gives it]")
@click.option(
    "--data",
    default="digits",
    show_default=True,
    metavar="NAME",
    help="digits, mnist, fashion-mnist, cifar10, an .npz file, or file.py:name giving loaders; training samples.",
)
@click.option(
    "--batch-size", default="256", show_default=True, metavar="N", help="Samples a pass of the model."
)
@click.option("--batches", metavar="N", help="Use at most so many. [default: all]")
@click.option(
    "--upstream",
    default="population",
    show_default=True,
    metavar="NAME",
    help="How batch norms in front of a measured one normalise: population, as in evaluation, or batch.",
)
@click.option("--out", required=True, metavar="FILE", help="New file for the state_dict.")
def command(
    model: str,
    weights: str | None,
    data: str,
    batch_size: str,
    batches: str | None,
    upstream: str,
    out: str,
) -> None:
    """Measure the running statistics of MODEL's batch norms on data, exactly, and write its state_dict.

    MODEL is file.py:name or package.module:name: a model, or a function that returns one.
    """
    require_lab()
    # Late, because this loads torch, which help does not need.
    from batchnorm.lab.data import load
    from batchnorm.lab.settings import whole
    from batchnorm.lab.trained import save_state, trained_model
    from batchnorm.surgery import recalibrate_
    from batchnorm.surgery.layers import batch_norm_paths

    size = whole("--batch-size", batch_size, least=1)
    limit = None if batches is None else whole("--batches", batches, least=1)
    if Path(out).exists():
        raise UsageError(f"--out {out!r} exists; choose another name")
    dataset = load(data)
    network = trained_model(model, weights, input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    parts = dataset.train.x.split(size)[:limit]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RecalibrationWarning)
        recalibrate_(network, parts, upstream=upstream)
    for warning in caught:
        click.echo(f"warning: {warning.message}", err=True)
    save_state(network, Path(out))
    samples = sum(len(part) for part in parts)
    click.echo(f"{len(batch_norm_paths(network))} batch norms measured on {samples} samples of {data}: {out}")
