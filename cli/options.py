"""Options that several commands share, and functions that interpret them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click

from bnn_keras import catalog, pretrained
from bnn_keras.cli.output import print_message, quiet_tensorflow
from bnn_keras.experiment import Experiment, Resolution, all_experiments, resolve
from bnn_keras.experiment.schema import FAKE
from bnn_keras.location import DataLocation
from bnn_keras.tables import MAX_BATCH_SIZE


def complete_names(names: Callable[[], Iterable[str]]) -> Callable[..., list[str]]:
    """Return click's callback that completes a value by the names that a function returns."""
    return lambda context, parameter, begin: [name for name in names() if name.startswith(begin)]


def _experiments() -> list[str]:
    return [experiment.name for experiment in all_experiments()]


_complete_network = complete_names(lambda: catalog.NETWORKS)


def shown_names() -> list[str]:
    """Return the names that `bnnk show` accepts."""
    return [*_experiments(), *catalog.NETWORKS, *pretrained.cards()]


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON value and nothing else.")
data_dir = click.option(
    "--data-dir", metavar="DIR", help="Folder of prepared datasets (default: TFDS's, ~/tensorflow_datasets)."
)
overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the experiment, such as stages.0.epochs=3. Repeatable.",
)
strategy = click.option(
    "--strategy",
    default="auto",
    metavar="S",
    help="Devices: single, mirrored (all local GPUs), multiworker (TF_CONFIG), tpu, or auto (default), which detects.",
)
precision = click.option(
    "--precision",
    default="float32",
    metavar="P",
    help="Number type of computations: float32 (default), mixed_bfloat16, mixed_float16.",
)
jit = click.option(
    "--jit", is_flag=True, help="Compile training steps with XLA. To be tried on GPUs; on CPUs it makes most slower."
)
quiet = click.option("--quiet", is_flag=True, help="Print plain lines instead of a progress bar.")
trust = click.option(
    "--trust", is_flag=True, help="Open a SavedModel or a C file that this machine did not export: it is a program."
)
best = click.option("--best", is_flag=True, help="Use the weights of the best epoch instead of the last one.")
run = click.argument("run", metavar="RUN")
model = click.option(
    "--model",
    metavar="NAME_OR_FILE",
    help="A model of the package (`bnnk list models`), or an exported file, instead of a run.",
    shell_complete=complete_names(pretrained.cards),
)


def data_location(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --data-dir and --manual-dir, the fields of a `DataLocation`."""
    manual_dir = click.option(
        "--manual-dir", metavar="DIR", help="Folder with the files that TFDS would download, under the same names."
    )
    return data_dir(manual_dir(function))


def positive(name: str, text: str, maximum: int | None = None) -> Callable[..., Any]:
    """Return an option whose value is an integer from 1 to `maximum`."""
    return click.option(name, type=click.IntRange(1, maximum), metavar="N", help=text)


def predicting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --model (see `run_or_model`), --trust, --best, --batch-size and --threads, for commands that predict."""
    for option in (
        positive("--threads", "Number of threads (default: chosen by the engine)."),
        positive("--batch-size", "Images per batch; some exported models have a fixed batch size.", MAX_BATCH_SIZE),
        best,
        trust,
        model,
    ):
        function = option(function)
    return function


def run_or_model(words: tuple[str, ...], model: str | None, inputs: bool = False) -> tuple[str, ...]:
    """Return RUN, or the value of --model if it is given, and the other arguments of the command.

    Args:
        words: All arguments of the command.
        model: Value of --model.
        inputs: Whether the command has one or more arguments after RUN, called INPUT; otherwise it has none.

    Raises:
        click.UsageError: Both or neither of RUN and --model are given, or the number of other arguments is wrong.
        BnnError: There is no such run, file or model. Found here, before a command loads TensorFlow, unless `predict`
            first checks whether its arguments are in the wrong order.
    """
    arguments = (model, *words) if model else words
    if len(arguments) < 2 if inputs else len(arguments) != 1:
        expected = [] if model else ["RUN"]
        received, wanted = " ".join(words) or "nothing", " ".join([*expected, *["INPUT…"] * inputs]) or "nothing"
        alternative = "beside --model NAME_OR_FILE" if model else "or --model NAME_OR_FILE in the place of RUN"
        raise click.UsageError(f"got {received!r}; expected {wanted} {alternative}")
    if not inputs:
        pretrained.find(arguments[0])
    return arguments


def choices(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose an experiment for a network and override it."""
    for option in reversed(
        (
            click.option(
                "--dataset",
                metavar="D",
                help="Dataset. Chooses a recipe that has it, or overrides it.",
                shell_complete=complete_names(lambda: catalog.DATASETS),
            ),
            click.option(
                "--scheme",
                metavar="S",
                help="Binarization scheme. Likewise.",
                shell_complete=complete_names(lambda: catalog.SCHEMES),
            ),
            click.option("--bits", metavar="B", help="Bits of weights/activations, such as 1/1. Likewise."),
            click.option(
                "--optimizer",
                metavar="O",
                help="Optimizer. Likewise.",
                shell_complete=complete_names(lambda: catalog.OPTIMIZERS),
            ),
            click.option(
                "--experiment",
                metavar="NAME_OR_FILE",
                help="Use this experiment.",
                shell_complete=complete_names(_experiments),
            ),
            overrides,
        )
    ):
        function = option(function)
    return function


def recipe(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument NETWORK and the options of `choices`. `resolve_recipe` reads them."""
    return click.argument("network", shell_complete=_complete_network)(choices(function))


def recipe_or_run(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument NETWORK, the options of `choices`, and --continue, which takes the place of NETWORK."""
    continued = click.option(
        "--continue",
        "continued",
        metavar="RUN",
        help="Train this run further: with more --epochs, or by --set with other hyper-parameters of the optimizer. It "
        "takes the place of NETWORK. The run notes what changed.",
    )
    return click.argument("network", required=False, shell_complete=_complete_network)(choices(continued(function)))


def require_none_beside_continue(*arguments: Any, **named: Any) -> None:
    """Verify that no argument is given that --continue takes from its run.

    Raises:
        click.UsageError: One is given.
    """
    names = dict(zip(("NETWORK", "--from", "--run", "--fresh"), arguments, strict=True))
    names |= {f"--{name.replace('_', '-')}": value for name, value in named.items()}
    given = [name for name, value in names.items() if value not in (None, False)]
    if given:
        raise click.UsageError(
            f"got {', '.join(given)} beside --continue RUN, which takes them from RUN; expected --epochs or --set"
        )


def durations(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --epochs and --batch-size, which override the experiment."""
    for option in (
        click.option(
            "--batch-size", type=click.IntRange(1, MAX_BATCH_SIZE), help="Images per step (default: the recipe's)."
        ),
        click.option("--epochs", type=click.IntRange(min=1), help="Number of epochs (default: the recipe's)."),
    ):
        function = option(function)
    return function


def resolve_recipe(network: str, location: DataLocation, **options: Any) -> Experiment:
    """Return the experiment that the options of `recipe` select. Print its note."""
    resolution = resolve(network, **{**options, "dataset": resolve_dataset(options.get("dataset"), location)})
    print_note(resolution)
    return resolution.experiment


def resolve_dataset(name: str | None, location: DataLocation) -> str | catalog.DatasetRow | None:
    """Return the name of a dataset, or the row that TFDS gives for a dataset outside of the catalog."""
    if name is None or name == FAKE or name in catalog.DATASETS:
        return name
    with quiet_tensorflow():
        from bnn_keras.data import describe
    return describe(name, location)


def print_note(resolution: Resolution) -> None:
    """Print how an experiment differs from a recipe, if it does."""
    if resolution.note:
        print_message(resolution.note, "Note")
