"""The group of commands: each is loaded when it is asked for, and every mistake ends in one line."""

import importlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from batchnorm import __version__
from batchnorm.errors import BatchNormError

__all__ = ["Commands", "main"]

BAD_INPUT = 2
INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended
COMMANDS = ("compare", "lab", "recalibrate", "report", "bench", "env")
LESS_MEMORY = {  # what the user of a command can ask less of
    "compare": "a smaller --batch-size, model or data set, or fewer --jobs",
    "lab run": "fewer --jobs",
    "recalibrate": "a smaller --batch-size",
    "bench": "smaller shapes, by --shape or --network",
}


class Commands(click.Group):
    """Commands by name, one module each; mistakes become one line on stderr and exit code 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The names, in the order in which help shows them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command from its own module, or None."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"batchnorm.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, but an unknown command is answered with the known ones."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"command {args[0]!r} is unknown; choose from {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run a command and leave the process with its exit code."""
        arguments = list(sys.argv[1:] if args is None else args)
        extra |= {"standalone_mode": False, "prog_name": "batchnorm"}
        _never_fail_on_a_character()
        try:
            code = super().main(arguments, obj=shlex.join(["batchnorm", *arguments]), **extra)
        except click.ClickException as error:
            _stop(error.format_message())
        except BatchNormError as error:
            _stop(str(error))
        except (click.Abort, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        except MemoryError:
            _stop(_out_of_memory(arguments))
        except OSError as error:
            place = f"'{error.filename}': " if error.filename else ""
            _stop(f"{place}{error.strerror or error}")
        sys.exit(code if isinstance(code, int) else 0)


@click.group(
    cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, package_name="batchnorm")
@click.pass_context
def main(context: click.Context) -> None:
    """Batch normalization for PyTorch: what it does to a network, measured."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _stop(message: str) -> NoReturn:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(BAD_INPUT)


def _out_of_memory(arguments: Sequence[str]) -> str:
    typed = (" ".join(arguments[:words]) for words in (1, 2))
    less = next((LESS_MEMORY[name] for name in typed if name in LESS_MEMORY), None)
    return f"out of memory; try {less}" if less else "out of memory"


def _never_fail_on_a_character() -> None:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
