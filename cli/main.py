"""The command `bnnk`. Errors of the library become one line and an exit code here."""

from __future__ import annotations

import io
import itertools
import os
import sys
import warnings
from typing import Any

import click

from bnn_keras import BnnError, __version__
from bnn_keras.cli import completion, datasets, experiments, exports, reports, reproduce, runs, sweeps
from bnn_keras.cli import plugins as plugin_commands
from bnn_keras.cli.output import print_message, quiet_tensorflow
from bnn_keras.errors import nearest
from bnn_keras.plugins import VARIABLE, load_plugins

EXIT_INTERRUPTED = 130
GREETING = f"""bnnk {__version__}: train, verify and deploy binarized neural networks.

Three commands to try:

  bnnk train lenet5 --epochs 2 --run runs/first
      Train XNOR-Net's LeNet-5 on digits that ship with the package.
  bnnk export runs/first --to packed -o lenet5.safetensors
      Export it with one bit per binary weight, and verify that the file predicts the same.
  bnnk show birealnet18 --diagram net.svg
      Draw a network: its binary and real layers, shapes and shortcuts.

`bnnk doctor` checks this machine, `bnnk --help` lists all commands."""


class Commands(click.Group):
    """A group that lists commands in the order they were added and prints errors of the library as one line."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of commands in the order they were added."""
        return list(self.commands)

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Accept the options of `bnnk` itself anywhere on the command line, up to "--"."""
        end = args.index("--") if "--" in args else len(args)
        own, others = _own_options(args[:end])
        return super().parse_args(context, [*own, *others, *args[end:]])

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        """Add the most similar command to click's "No such command"."""
        try:
            return super().resolve_command(context, args)
        except click.UsageError as error:
            guess = nearest(args[0], self.commands)
            hint = f"did you mean {guess!r}?" if guess else f"known: {', '.join(self.commands)}"
            raise click.UsageError(f"{error.message.rstrip('.')}; {hint}", context) from None

    def invoke(self, context: click.Context) -> Any:
        """Run a command. Exit with 0, with 1 or the code of an error, or with 130 after Ctrl-C."""
        if context.params["debug"]:
            return super().invoke(context)
        code = BnnError.exit_code
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(context)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click handles these
        except BnnError as error:
            message, code = str(error), error.exit_code
        except OSError as error:
            message = (
                f"{error}; check the path, its permissions and free space, or see the traceback with `bnnk --debug …`"
            )
        except MemoryError as error:
            message = f"not enough memory ({error}); use fewer images or a smaller --batch-size"
        except KeyboardInterrupt as interrupt:
            default = "interrupted; finished work is kept, run the same command again to continue"
            print_message(str(interrupt) or default)
            context.exit(EXIT_INTERRUPTED)
        except Exception as error:
            kind = type(error).__name__
            message = f"unexpected {kind}: {error}; this is a bug in bnnk, see the traceback with `bnnk --debug …`"
        print_message(" ".join(message.split()))
        context.exit(code)


def _own_options(args: list[str]) -> tuple[list[str], list[str]]:
    """Split arguments into --debug and --plugin with its value, and all others."""
    own: list[str] = []
    others: list[str] = []
    rest = iter(args)
    for arg in rest:
        if arg == "--plugin":
            own += [arg, *itertools.islice(rest, 1)]
        else:
            (own if arg == "--debug" or arg.startswith("--plugin=") else others).append(arg)
    return own, others


def _show_warning(message: Any, category: type[Warning], *args: Any, **kwargs: Any) -> None:
    """Print warnings of this package as one line. Hide warnings of libraries, which are for their developers."""
    if category is UserWarning and args and "bnn_keras" in str(args[0]):
        print_message(str(message), "Warning")


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="bnnk")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors and messages of TensorFlow.")
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="FILE_OR_MODULE",
    help="Add the networks, schemes, optimizers, datasets and formats of a plugin, whose code runs. Repeatable; also "
    f"{VARIABLE}, separated by colons.",
)
@click.pass_context
def main(context: click.Context, debug: bool, plugins: tuple[str, ...]) -> None:
    """Train, verify and deploy binarized neural networks.

    An experiment is a scheme × a network × a recipe: `bnnk train lenet5` trains XNOR-Net's LeNet-5 on digits that ship
    with the package. --plugin and --debug may also stand behind
    the command.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names that are not UTF-8
    if not debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet_tensorflow():
        load_plugins(plugins)
    if context.invoked_subcommand is None:
        click.echo(GREETING)


for command in (
    *runs.COMMANDS,
    *exports.COMMANDS,
    *reports.COMMANDS,
    *reproduce.COMMANDS,
    *sweeps.COMMANDS,
    *experiments.COMMANDS,
    *datasets.COMMANDS,
    *plugin_commands.COMMANDS,
    *completion.COMMANDS,
):
    main.add_command(command)
