"""The command line: `batchnorm COMMAND`. Loading it, and asking it for help, loads no torch."""

from batchnorm.cli.commands import main

__all__ = ["main"]
