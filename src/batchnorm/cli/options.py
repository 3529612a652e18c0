"""Options that several commands have, in the same words."""

import click

__all__ = ["cluster_option", "jobs_option"]

cluster_option = click.option(
    "--cluster",
    metavar="WHERE",
    help="Do the runs on a cluster: dask://HOST:PORT, or ray (the cluster of RAY_ADDRESS, or one on this machine).",
)
jobs_option = click.option(
    "--jobs", metavar="N", help="Runs at a time. [default: as many as there are usable cores]"
)
