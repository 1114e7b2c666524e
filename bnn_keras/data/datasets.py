"""Datasets by name: prepared by TFDS once, found in its folder from then on; a folder of images; or made up."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import tensorflow as tf
import tensorflow_datasets as tfds

from bnn_keras import catalog
from bnn_keras.data.preparing import prepare
from bnn_keras.data.readers import FakeReader, Reader, TfdsReader
from bnn_keras.errors import BnnError, nearest
from bnn_keras.experiment import Experiment
from bnn_keras.experiment.schema import FAKE
from bnn_keras.location import DEFAULT_LOCATION, DataLocation

IMAGE_FOLDER = "image_folder"
_TESTS = ("test", "validation", "val")
# Of a dataset with one split: TFDS shuffles what it prepares, so that the last tenth is as good as any.
_PARTS = ("train[:90%]", "train[90%:]")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An image classification dataset.

    Attributes:
        info: What is known of it; its splits are those that are there.
        reader: Reads it.
    """

    info: catalog.DatasetRow
    reader: Reader

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of the logits."""
        return self.reader.labels

    @property
    def version(self) -> str:
        """The version of the data."""
        return self.reader.version

    @property
    def encoded(self) -> bool:
        """Whether images are read and decoded one by one, instead of held in memory."""
        return self.reader.encoded

    def examples(self, split: str) -> int:
        """Number of images in a split; what is known of it where it is not prepared."""
        known = {self.info.train: self.info.train_examples, self.info.test: self.info.test_examples}
        return self.reader.count(split) if self.reader.splits else known[split]

    def pairs(self, split: str) -> tf.data.Dataset:
        """(image, label) in an order that never changes; images are files where `encoded`, else pixels as uint8."""
        return self.reader.read(split)


def open_data(experiment: Experiment, location: DataLocation = DEFAULT_LOCATION) -> Dataset:
    """The dataset of an experiment, ready to read.

    Args:
        experiment: Names it: one of the catalog, any other image classification set of TFDS, "image_folder", "fake".
        location: Where the dataset is, or where to put it.

    Raises:
        BnnError: As `open_dataset`; or the dataset has other images or classes than the experiment says.
    """
    expected = experiment.data.row
    if experiment.data.name == FAKE:
        return find_data(experiment)
    images = open_dataset(experiment.data.name, location)
    if (images.info.input_shape, images.info.classes) != (expected.input_shape, expected.classes):
        raise BnnError(
            f"dataset {experiment.data.name!r} has images {shape_text(images.info.input_shape)} in "
            f"{images.info.classes} classes; the experiment says {shape_text(expected.input_shape)} in "
            f"{expected.classes}; correct data.shape and data.classes, or leave them to --dataset"
        )
    return images


def find_data(experiment: Experiment, location: DataLocation = DEFAULT_LOCATION) -> Dataset:
    """The dataset of an experiment, prepared or not; arguments and errors as those of `open_data`."""
    if experiment.data.name != FAKE:
        return find_dataset(experiment.data.name, location)
    examples = experiment.data.examples or 2 * max(stage.batch_size for stage in experiment.stages)
    row = dataclasses.replace(experiment.data.row, name=FAKE, train_examples=examples, test_examples=examples)
    return Dataset(row, FakeReader(row, examples, experiment.seed))


def open_test_data(experiment: Experiment, name: str, location: DataLocation = DEFAULT_LOCATION) -> Dataset:
    """Another dataset than an experiment's, to test its network on; arguments as those of `open_data`.

    Raises:
        BnnError: As `open_dataset`; or it has other images or classes than the experiment's.
    """
    own, row = experiment.data.row, describe(name, location)
    if (row.input_shape, row.classes) != (own.input_shape, own.classes):
        raise BnnError(
            f"dataset {name!r} has images {shape_text(row.input_shape)} in {row.classes} classes; the network expects "
            f"{shape_text(own.input_shape)} in {own.classes}; choose a dataset of that shape"
        )
    return open_dataset(name, location)


def available_data(experiment: Experiment, location: DataLocation = DEFAULT_LOCATION) -> Dataset | None:
    """The dataset of an experiment where no download is needed: it is prepared, made up, or ships with the package."""
    try:
        found = find_data(experiment, location)
    except BnnError:
        return None
    return open_data(experiment, location) if found.reader.splits or found.info.module else None


def training_examples(images: Dataset) -> Dataset:
    """The dataset with its training images in the place of those to test."""
    row = images.info
    return dataclasses.replace(images, info=dataclasses.replace(row, test=row.train, test_examples=row.train_examples))


def open_dataset(name: str, location: DataLocation = DEFAULT_LOCATION) -> Dataset:
    """A dataset ready to read; it is downloaded and prepared where that was not done before.

    Args:
        name: A dataset of the catalog, any other image classification set of TFDS, or "image_folder".
        location: Where the dataset is, or where to put it.

    Raises:
        BnnError: The name is unknown; the files can neither be downloaded nor found in `location.manual_dir`; TFDS
            fails on them (nothing half-prepared stays behind); or the dataset has no split "train".
    """
    found = find_dataset(name, location)
    if not found.reader.splits:
        prepare(found.reader.builder, location.manual_dir)
    train, test = _splits(name, found.reader)
    return Dataset(dataclasses.replace(found.info, train=train, test=test), found.reader)


def find_dataset(name: str, location: DataLocation = DEFAULT_LOCATION) -> Dataset:
    """A dataset as TFDS describes it, prepared or not.

    Args:
        name: As for `open_dataset`.
        location: Where the dataset is, or where to put it.

    Raises:
        BnnError: The name is unknown, or the dataset is not one for image classification.
    """
    source = TfdsReader(_image_folder(location) if name == IMAGE_FOLDER else _builder(name, location))
    row = catalog.DATASETS.get(name) or _row(name, source)
    return Dataset(row, source)


def describe(name: str, location: DataLocation = DEFAULT_LOCATION) -> catalog.DatasetRow:
    """What is known of a dataset, in the catalog or outside of it, without downloading it.

    Args:
        name: As for `open_dataset`.
        location: Where the dataset is, or where to put it.

    Returns:
        A row: height and width None where images differ in size, 0 examples where TFDS does not know yet.

    Raises:
        BnnError: The name is unknown, or the dataset is not one for image classification.
    """
    return find_dataset(name, location).info


def shape_text(shape: tuple[int | None, ...]) -> str:
    """Height, width and channels for people."""
    return " × ".join("any" if size is None else str(size) for size in shape)


def _row(name: str, source: TfdsReader) -> catalog.DatasetRow:
    row = catalog.DatasetRow.other(name, source.shape, source.classes)
    if not source.splits:
        return row
    train, test = _splits(name, source)
    counts = {"train_examples": source.count(train), "test_examples": source.count(test)}
    return dataclasses.replace(row, train=train, test=test, **counts)


def _splits(name: str, source: TfdsReader) -> tuple[str, str]:
    """Those to train on and to test on: "test", else "validation"; the last tenth of "train" where it is alone."""
    row = catalog.DATASETS.get(name)
    splits = source.splits
    wanted = (row.test,) if row else _TESTS
    test = next((split for split in wanted if splits.get(_whole(split)) and (row or _has_labels(source, split))), None)
    if splits.get("train") and test:
        return row.train if row else "train", test
    if splits.get("train") and not row and name != IMAGE_FOLDER:
        return _PARTS
    there = ", ".join(split for split, examples in splits.items() if examples) or "none"
    raise BnnError(
        f"dataset {name!r} has images in the splits {there}; expected train and {' or '.join(wanted)}; "
        "prepare it again from all of its files"
    )


def _whole(split: str) -> str:
    """The split that one like "test[:10%]" is a part of."""
    return split.partition("[")[0]


def _has_labels(source: TfdsReader, split: str) -> bool:
    """Whether the first image has one: -1 stands for the secret labels of a contest."""
    return any(int(label) >= 0 for _, label in source.read(split).take(1))


def _builder(name: str, location: DataLocation) -> tfds.core.DatasetBuilder:
    """TFDS's builder by name.

    Raises:
        BnnError: There is none.
    """
    if name == FAKE:
        raise BnnError("dataset 'fake' takes shape and classes from another one; set data.name=fake in an experiment")
    row = catalog.DATASETS.get(name)
    if row and row.module:
        importlib.import_module(row.module)
    known = tfds.list_builders(with_community_datasets=False)
    if name.split("/")[0].split(":")[0] not in known:
        guess = nearest(name, [*catalog.DATASETS, IMAGE_FOLDER, FAKE]) or nearest(name, known)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise BnnError(
            f"unknown dataset {name!r}; {hint}known: {', '.join([*catalog.DATASETS, IMAGE_FOLDER, FAKE])}, "
            "and every image classification set of TFDS"
        )
    try:
        return tfds.builder(name, data_dir=str(Path(location.data_dir).expanduser()) if location.data_dir else None)
    except (ValueError, ImportError, AttributeError) as error:
        reason = str(error)[:300]
        raise BnnError(f"TFDS cannot open dataset {name!r} ({reason}); expected NAME or NAME/CONFIG") from error


def _image_folder(location: DataLocation) -> tfds.ImageFolder:
    """A folder with images in train/<class>/, and in test, validation or val."""
    expected = "expected DIR/train/<class>/*.jpg (or .png), and DIR/test, validation or val alike"
    if not location.data_dir:
        raise BnnError(f"dataset 'image_folder' needs its folder; give it with --data-dir DIR; {expected}")
    folder = Path(location.data_dir).expanduser()
    if not (folder / "train").is_dir():
        raise BnnError(f"--data-dir {str(folder)!r} has no folder 'train'; {expected}")
    builder = tfds.ImageFolder(str(folder))
    if not TfdsReader(builder).splits.get("train"):
        raise BnnError(f"--data-dir {str(folder)!r} has no images in 'train'; {expected}")
    classes = {path.name for path in (folder / "train").iterdir() if path.is_dir()}
    strangers = sorted(set(builder.info.features["label"].names) - classes)
    if strangers:
        raise BnnError(
            f"--data-dir {str(folder)!r} has folders {', '.join(strangers[:5])} that 'train' does not have; "
            "expected the classes of 'train' in every folder beside it"
        )
    return builder
