"""Commands about data: `datasets prepare`, `datasets list`, `datasets show`."""

from __future__ import annotations

import click

from bnn_keras import catalog
from bnn_keras.cli import options
from bnn_keras.cli.output import print_json, print_table, quiet_tensorflow
from bnn_keras.experiment import resolve
from bnn_keras.location import DataLocation

OTHERS = (
    "Any other image classification set of TFDS works by its name, `image_folder` reads --data-dir "
    "DIR/train/<class>/*.jpg, and `fake` makes images up."
)


@click.group()
def datasets() -> None:
    """Prepare, list and look at datasets."""


@datasets.command()
@click.argument("name", metavar="NAME")
@options.data_location
def prepare(name: str, data_dir: str | None, manual_dir: str | None) -> None:
    """Download and prepare dataset NAME, so that training begins at once and needs no network."""
    with quiet_tensorflow():
        from bnn_keras.data import open_dataset
    images = open_dataset(name, DataLocation(data_dir, manual_dir))
    train, test = (images.examples(split) for split in (images.info.train, images.info.test))
    click.echo(f"{name} {images.version}: {train:,} images to train on, {test:,} to test, in {images.reader.folder}")


@datasets.command("list")
@options.data_dir
@options.as_json
def list_(data_dir: str | None, as_json: bool) -> None:
    """List the catalog's datasets, and whether and where each is prepared."""
    with quiet_tensorflow():
        from bnn_keras.data import find_dataset
    found = [find_dataset(name, DataLocation(data_dir)) for name in catalog.DATASETS]
    rows = [
        {
            "name": images.info.name,
            "classes": images.info.classes,
            "train_examples": images.info.train_examples,
            "test_examples": images.info.test_examples,
            "prepared": bool(images.reader.splits),
            "folder": images.reader.folder,
        }
        for images in found
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
@click.option("--experiment", metavar="NAME_OR_FILE", help="Show what its network is given; else images as they are.")
@click.option("--output", "-o", required=True, metavar="GRID.png", help="The picture to write.")
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
    """Draw images of dataset NAME, with an experiment as its network will see them.

    The first row are test images; below it the same training images stand as they are augmented in each epoch.
    """
    location = DataLocation(data_dir, manual_dir)
    with quiet_tensorflow():
        from bnn_keras.data import open_data, open_dataset
        from bnn_keras.data.grid import draw_grid
    if experiment:
        dataset = options.resolve_dataset(name, location)
        resolution = resolve(experiment=experiment, dataset=dataset, overrides=overrides)
        images = open_data(resolution.experiment, location)
        options.print_note(resolution)
        draw_grid(images, output, resolution.experiment)
    else:
        draw_grid(open_dataset(name, location), output)
    click.echo(f"{name} → {output}")


COMMANDS = (datasets,)
