"""Commands `datasets prepare`, `datasets list`, `datasets show`, `datasets mean` and `datasets check`."""

from __future__ import annotations

import functools
from pathlib import Path

import click

from bnn_keras import catalog, files
from bnn_keras.cli import options
from bnn_keras.cli.output import print_json, print_line, print_table, quiet_tensorflow
from bnn_keras.experiment import resolve
from bnn_keras.location import DataLocation

OTHERS = (
    "Other names: every image classification dataset of TFDS, `image_folder` for images in --data-dir "
    "DIR/train/<class>/*.jpg, `arrays` for arrays of NumPy in --data-dir DIR, and `fake` for generated images."
)


@click.group()
def datasets() -> None:
    """Prepare, list, show and check datasets."""


@datasets.command()
@click.argument("name", metavar="NAME")
@options.data_location
def prepare(name: str, data_dir: str | None, manual_dir: str | None) -> None:
    """Download and prepare dataset NAME, so that training starts immediately and offline."""
    with quiet_tensorflow():
        from bnn_keras.data import open_dataset
    dataset = open_dataset(name, DataLocation(data_dir, manual_dir))
    train, test = (dataset.examples(split) for split in (dataset.info.train, dataset.info.test))
    click.echo(
        f"{name} {dataset.version}: {train:,} training images and {test:,} test images in {dataset.reader.folder}"
    )


@datasets.command()
@click.argument("name", metavar="NAME")
@click.option("--output", "-o", required=True, metavar="DIR", help="Folder to write, which must not exist.")
@options.data_location
def whiten(name: str, output: str, data_dir: str | None, manual_dir: str | None) -> None:
    """Whiten the images of dataset NAME, for `--dataset arrays --data-dir DIR`.

    Global contrast normalization, then ZCA whitening fitted to the training images, as Network in Network's CIFAR-10.
    """
    with quiet_tensorflow():
        from bnn_keras.data import open_dataset
        from bnn_keras.data.whitening import whiten as whiten_dataset
    whiten_dataset(open_dataset(name, DataLocation(data_dir, manual_dir)), output)
    print_line(f"{name} → {output}")


@datasets.command("list")
@options.data_dir
@options.as_json
def list_(data_dir: str | None, as_json: bool) -> None:
    """List the datasets of the catalog, and where each is prepared."""
    with quiet_tensorflow():
        from bnn_keras.data import find_dataset
    datasets_ = [find_dataset(name, DataLocation(data_dir)) for name in catalog.DATASETS]
    rows = [
        {
            "name": dataset.info.name,
            "classes": dataset.info.classes,
            "train_examples": dataset.info.train_examples,
            "test_examples": dataset.info.test_examples,
            "prepared": bool(dataset.reader.splits),
            "folder": dataset.reader.folder,
        }
        for dataset in datasets_
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        row |= {key: f"{row[key]:,}" for key in ("train_examples", "test_examples")}
        folder = row.pop("folder")
        row["prepared"] = folder if row["prepared"] else None
    print_table([key.replace("_", " ") for key in rows[0]], (row.values() for row in rows))
    click.echo(f"\n{OTHERS}")


@datasets.command()
@click.argument("name", metavar="NAME")
@click.option(
    "--experiment",
    metavar="NAME_OR_FILE",
    help="Preprocess and augment images as this experiment does.",
)
@click.option("--output", "-o", required=True, metavar="GRID.png", help="Image file to write.")
@options.overrides
@options.data_location
def show(
    name: str,
    experiment: str | None,
    output: str,
    overrides: tuple[str, ...],
    data_dir: str | None,
    manual_dir: str | None,
) -> None:
    """Draw images of dataset NAME, unchanged or as an experiment preprocesses them.

    With --experiment, the first row shows test images. Each further row shows the same training images as augmented in
    one epoch. The classes are listed in the order of the logits.
    """
    location = DataLocation(data_dir, manual_dir)
    with quiet_tensorflow():
        from bnn_keras.data import make_arrays, open_data, open_dataset
        from bnn_keras.data.grid import draw_grid
        from bnn_keras.data.readers import decoding
    recipe = None
    if experiment:
        resolution = resolve(
            experiment=experiment, dataset=options.resolve_dataset(name, location), overrides=overrides
        )
        options.print_note(resolution)
        recipe = resolution.experiment
        dataset = open_data(recipe, location)
        recipe = recipe.with_arrays(functools.partial(make_arrays, recipe, lambda: dataset))
    else:
        dataset = open_dataset(name, location)
    with decoding(name):
        draw_grid(dataset, output, recipe)
    print_line(f"{name} → {output}")
    print_line(f"{len(dataset.labels):,} classes: {', '.join(dataset.labels)}")


@datasets.command()
@click.argument("name", metavar="NAME")
@click.option("--output", "-o", default="mean.npy", show_default=True, metavar="FILE.npy", help="File to write.")
@click.option(
    "--size",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Height and width of the mean image, if images differ in size.",
)
@click.option(
    "--channels", type=click.Choice(["rgb", "bgr"]), default="rgb", show_default=True, help="Order of the channels."
)
@options.data_location
def mean(name: str, output: str, size: int, channels: str, data_dir: str | None, manual_dir: str | None) -> None:
    """Write the mean of all training images of dataset NAME, for `data.mean_image`."""
    with quiet_tensorflow():
        import numpy as np

        from bnn_keras.data import mean_image_of, open_dataset
        from bnn_keras.data.readers import decoding
    dataset = open_dataset(name, DataLocation(data_dir, manual_dir))
    with decoding(name):
        array = mean_image_of(dataset, size, channels)
    path = Path(output)
    with files.replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, array)
    print_line(f"{name} → {path}: {' × '.join(map(str, array.shape))}, {channels.upper()}")


@datasets.command()
@click.argument("folder", metavar="DIR")
@click.pass_context
def check(context: click.Context, folder: str) -> None:
    """Decode all images of DIR, a folder for `--dataset image_folder`.

    Prints the path of each image that cannot be decoded, with the reason. Exits with 1 if there are any.
    """
    with quiet_tensorflow():
        from bnn_keras.data.image_folder import FolderReader
    reader = FolderReader.open(folder)
    damaged = list(reader.damaged())
    for file, reason in damaged:
        print_line(f"{file}: {reason}", err=True)
    print_line(f"{folder}: {len(damaged):,} of {sum(reader.splits.values()):,} images cannot be decoded")
    context.exit(1 if damaged else 0)


COMMANDS = (datasets,)
