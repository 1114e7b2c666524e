"""Options that several commands share, and what they mean together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from bnn_keras import catalog
from bnn_keras.cli.output import complain, quiet_tensorflow
from bnn_keras.experiment import Experiment, Resolution, resolve
from bnn_keras.experiment.schema import FAKE
from bnn_keras.location import DataLocation

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON value and nothing else.")
data_dir = click.option(
    "--data-dir", metavar="DIR", help="Where prepared datasets are (TFDS's default: ~/tensorflow_datasets)."
)
manual_dir = click.option(
    "--manual-dir", metavar="DIR", help="A folder with the files that TFDS would download, under the same names."
)
overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the experiment, such as stages.0.epochs=3; may be repeated.",
)
strategy = click.option(
    "--strategy",
    default="auto",
    metavar="S",
    help="Devices: single, mirrored (all GPUs here), multiworker (TF_CONFIG), tpu, or auto, which finds out (default).",
)
precision = click.option(
    "--precision",
    default="float32",
    metavar="P",
    help="What layers compute in: float32 (default), mixed_bfloat16, mixed_float16.",
)
quiet = click.option("--quiet", is_flag=True, help="Plain lines instead of a progress bar.")
best = click.option("--best", is_flag=True, help="Take the weights of the best epoch instead of the last.")
run = click.argument("run", metavar="RUN")


def positive(name: str, text: str) -> Callable[..., Any]:
    """An option whose value is a whole number from 1."""
    return click.option(name, type=click.IntRange(min=1), metavar="N", help=text)


def predicting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where a trained network is that is no run, and how it shall compute; `trained` reads the first."""
    for option in (
        positive("--threads", "Threads to compute with; by default what the library thinks best."),
        positive("--batch-size", "Images of a batch; a file may have settled that."),
        best,
        click.option("--model", metavar="FILE", help="A file that `bnnk export` wrote, instead of a run."),
    ):
        function = option(function)
    return function


def trained(words: tuple[str, ...], model: str | None, others: str = "") -> tuple[str, ...]:
    """RUN, or the file of --model in its place, and what else stands on the command line.

    Raises:
        click.UsageError: Neither or both are given, or another number of words.
    """
    expected = others.split() if model else ["RUN", *others.split()]
    if len(words) != len(expected):
        got, wanted = " ".join(words) or "nothing", " ".join(expected) or "nothing"
        beside = "beside --model FILE" if model else "or --model FILE in the place of RUN"
        raise click.UsageError(f"got {got!r}; expected {wanted} {beside}")
    return (model, *words) if model else words


def choices(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose an experiment for a network, and override it."""
    for option in reversed(
        (
            click.option("--dataset", metavar="D", help="Dataset; chooses the recipe, or overrides it."),
            click.option("--scheme", metavar="S", help="Binarization scheme; likewise."),
            click.option("--bits", metavar="B", help="Bits of weights/activations, such as 1/1; likewise."),
            click.option("--optimizer", metavar="O", help="Optimizer; likewise."),
            click.option("--experiment", metavar="NAME_OR_FILE", help="This experiment instead of the one found."),
            overrides,
        )
    ):
        function = option(function)
    return function


def recipe(function: Callable[..., Any]) -> Callable[..., Any]:
    """NETWORK and `choices`; `resolved` reads them."""
    return click.argument("network")(choices(function))


def resolved(network: str, data_dir: str | None = None, **options: Any) -> Experiment:
    """The experiment that the options of `recipe` mean; says so where it is no recipe as it stands."""
    return announced(
        resolve(network, **{**options, "dataset": described(options.get("dataset"), DataLocation(data_dir))})
    )


def described(dataset: str | None, location: DataLocation) -> str | catalog.DatasetRow | None:
    """A dataset that the catalog does not have, as TFDS knows it; others by their names."""
    if dataset is None or dataset == FAKE or dataset in catalog.DATASETS:
        return dataset
    with quiet_tensorflow():
        from bnn_keras.data import describe
    return describe(dataset, location)


def announced(resolution: Resolution) -> Experiment:
    """The experiment that was found; says so where it is no recipe as it stands."""
    if resolution.note:
        complain(resolution.note, "Note")
    return resolution.experiment
