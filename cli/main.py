"""The command and the edge where the library's errors become one line and an exit code."""

from __future__ import annotations

import os
import warnings
from typing import Any

import click

from bnn_keras import BnnError, __version__
from bnn_keras.cli import datasets, experiments, exports, reproduce, runs
from bnn_keras.cli.output import complain
from bnn_keras.errors import nearest

EXIT_INTERRUPTED = 130


class Commands(click.Group):
    """Commands in the order of a user's work; errors of the library become one line."""

    def list_commands(self, context: click.Context) -> list[str]:
        """In the order they were added."""
        return list(self.commands)

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Takes --debug wherever it stands."""
        if "--debug" in args:
            args = ["--debug", *(arg for arg in args if arg != "--debug")]
        return super().parse_args(context, args)

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        """Adds the nearest name to click's "no such command"."""
        try:
            return super().resolve_command(context, args)
        except click.UsageError as error:
            guess = nearest(args[0], self.commands)
            hint = f"did you mean {guess!r}?" if guess else f"known: {', '.join(self.commands)}"
            raise click.UsageError(f"{error.message.rstrip('.')}; {hint}", context) from None

    def invoke(self, context: click.Context) -> Any:
        """Runs a command. Exit code 0, 1 for an error that its message explains, 130 after Ctrl-C."""
        if context.params["debug"]:
            return super().invoke(context)
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(context)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click knows what to do with these
        except BnnError as error:
            message = str(error)
        except OSError as error:
            message = f"{error}; free or allow what is asked for, or see more with `bnnk --debug …`"
        except KeyboardInterrupt:
            complain("interrupted; what is finished is kept, the same command goes on from there")
            context.exit(EXIT_INTERRUPTED)
        except Exception as error:
            message = f"unexpected {type(error).__name__}: {error}; this is a mistake of bnnk: see `bnnk --debug …`"
        complain(" ".join(message.split()))
        context.exit(1)


def _show_warning(message: Any, category: type[Warning], *args: Any, **kwargs: Any) -> None:
    """Warnings of this package as one line; those of the libraries below it are for their developers."""
    if category is UserWarning and args and "bnn_keras" in str(args[0]):
        complain(str(message), "Warning")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="bnnk")
@click.option("--debug", is_flag=True, help="Show the traceback of an error, and what TensorFlow prints.")
def main(debug: bool) -> None:
    """Train, prove and deploy binarized neural networks.

    A paper is a scheme × a network × a recipe: `bnnk train lenet5` trains XNOR-Net's LeNet-5 on digits that ship with
    the package.
    """
    if not debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


for command in (*runs.COMMANDS, *exports.COMMANDS, *reproduce.COMMANDS, *experiments.COMMANDS, *datasets.COMMANDS):
    main.add_command(command)
