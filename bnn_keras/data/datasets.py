"""Open datasets by name: from TFDS, from a folder of images, or generated."""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from pathlib import Path
from typing import TypeAlias

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from bnn_keras import catalog
from bnn_keras.data.arrays import ArraysReader
from bnn_keras.data.image_folder import TEST_SPLITS, FolderReader
from bnn_keras.data.preparing import data_dir_of, is_writable, prepare, temporary_data_dir
from bnn_keras.data.readers import FakeReader, Reader, TfdsReader, reason_of
from bnn_keras.data.shuffling import Order
from bnn_keras.errors import BnnError, nearest
from bnn_keras.experiment import Experiment
from bnn_keras.experiment.schema import ARRAYS, FAKE, IMAGE_FOLDER
from bnn_keras.location import DEFAULT_LOCATION, DataLocation

# Training and test split of a dataset with one split. TFDS shuffles when it prepares, so any tenth is a random sample.
_PARTS_OF_TRAIN = ("train[:90%]", "train[90%:]")

# Readers of files that no builder of TFDS describes, by the name of the dataset.
_OWN_READERS: dict[str, type[FolderReader] | type[ArraysReader]] = {IMAGE_FOLDER: FolderReader, ARRAYS: ArraysReader}
_KNOWN = (*_OWN_READERS, FAKE)
AnyReader: TypeAlias = TfdsReader | FolderReader | ArraysReader


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An image classification dataset.

    Attributes:
        info: Name, image shape, classes and splits.
        reader: Reads images and labels.

    Example:
        >>> import bnn_keras
        >>> from bnn_keras.data import open_data
        >>> experiment = bnn_keras.resolve("lenet5", dataset="fake", overrides=["data.examples=6"]).experiment
        >>> dataset = open_data(experiment)
        >>> dataset.examples("train"), len(dataset.labels), dataset.encoded
        (6, 10, False)
        >>> [(image.shape, image.dtype.name) for image, label in dataset.pairs("test").take(1)]
        [(TensorShape([28, 28, 1]), 'uint8')]
    """

    info: catalog.DatasetRow
    reader: Reader

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of the logits."""
        return self.reader.labels

    @property
    def version(self) -> str:
        """Version of the data."""
        return self.reader.version

    @property
    def encoded(self) -> bool:
        """Whether images are decoded each time they are read, instead of once into memory."""
        return self.reader.encoded

    def examples(self, split: str) -> int:
        """Return the number of images in a split; from the catalog if the dataset is not prepared."""
        if self.reader.splits:
            return self.reader.count(split)
        return {self.info.train: self.info.train_examples, self.info.test: self.info.test_examples}[split]

    def pairs(self, split: str) -> tf.data.Dataset:
        """Return (image, label) pairs in a fixed order.

        Images are the bytes of image files if `encoded`, else pixels (height, width, channels) as uint8.
        """
        return self.reader.read(split)

    def order(self, split: str) -> Order:
        """Return the shuffle order of a split: seed of an epoch, int64 (2,) → (index, (image, label)) of each image."""
        return self.reader.order(split)


def hold_out(dataset: Dataset, experiment: Experiment) -> Dataset:
    """Return the dataset as the epochs of a training use it: the best epoch is chosen on its test split.

    With `data.validation` as a split, that is the test split. With a fraction or a number of images, one range of the
    training images is the test split, and the others are the training split. The position of the range depends on the
    seed only. Datasets store their training images in random order, so a range is a random sample.

    Args:
        dataset: The dataset.
        experiment: Sets `data.validation` and the seed.

    Raises:
        BnnError: There is no such split, or no training images would be left.

    Example:
        >>> import bnn_keras
        >>> from bnn_keras.data import hold_out, open_data
        >>> overrides = ["data.examples=100", "data.validation=0.1"]
        >>> experiment = bnn_keras.resolve("lenet5", dataset="fake", overrides=overrides).experiment
        >>> held_out = hold_out(open_data(experiment), experiment)
        >>> held_out.examples(held_out.info.train), held_out.examples(held_out.info.test)
        (90, 10)
    """
    validation, row = experiment.data.validation, dataset.info
    if validation is None:
        return dataset
    if isinstance(validation, str):
        train, test = row.train, _validation_split(dataset, validation)
        sizes = dataset.examples(train), dataset.examples(test)
    else:
        train, test, held_out = _validation_range(dataset, validation, experiment.seed)
        sizes = dataset.examples(row.train) - held_out, held_out
    info = dataclasses.replace(row, train=train, test=test, train_examples=sizes[0], test_examples=sizes[1])
    return dataclasses.replace(dataset, info=info)


def _validation_split(dataset: Dataset, name: str) -> str:
    used = {_base_split(split): use for split, use in ((dataset.info.train, "training"), (dataset.info.test, "test"))}
    others = [split for split in dataset.reader.splits if split not in used]
    if name not in others:
        reason = f"its {used[name]} images" if name in used else "no split of the dataset"
        raise BnnError(
            f"data.validation = {name!r} is {reason}; {dataset.info.name!r} has these other splits: "
            f"{', '.join(others) or 'none'}; set a fraction of the training images, such as 0.1"
        )
    return name


def _validation_range(dataset: Dataset, size: float, seed: int) -> tuple[str, str, int]:
    """Return the training images without a range of them, and the range, as TFDS writes parts of splits; its length."""
    split, examples = _base_split(dataset.info.train), dataset.examples(dataset.info.train)
    number = max(1, round(size * examples)) if size < 1 else int(size)
    if number >= examples:
        raise BnnError(
            f"data.validation = {size} holds out {number} of {examples} training images of {dataset.info.name!r}; "
            "expected fewer than there are; set a smaller value, or 0 to choose the best epoch on the test images"
        )
    start = int(np.random.default_rng([seed, examples]).integers(examples - number + 1))
    stop = start + number
    parts = [f"{split}[{low}:{high}]" for low, high in ((0, start), (stop, examples)) if low < high]
    return "+".join(parts), f"{split}[{start}:{stop}]", number


def open_data(experiment: Experiment, location: DataLocation = DEFAULT_LOCATION) -> Dataset:
    """Open the dataset of an experiment. Download and prepare it if necessary.

    Args:
        experiment: Names a dataset of the catalog, any other image classification dataset of TFDS, "image_folder",
            "arrays" or "fake".
        location: Folder of prepared datasets, and of manually downloaded files.

    Raises:
        BnnError: As `open_dataset`; image shape or number of classes differ from the experiment's; or there are fewer
            test images than `data.test_examples`.

    Example:
        >>> import bnn_keras
        >>> from bnn_keras.data import open_data
        >>> experiment = bnn_keras.resolve("lenet5", dataset="fake", overrides=["data.examples=6"]).experiment
        >>> open_data(experiment).info.input_shape
        (28, 28, 1)
    """
    expected = experiment.data.row
    if experiment.data.name == FAKE:
        return find_data(experiment)
    dataset = open_dataset(experiment.data.name, location)
    if (dataset.info.input_shape, dataset.info.classes) != (expected.input_shape, expected.classes):
        raise BnnError(
            f"dataset {experiment.data.name!r} has images {shape_text(dataset.info.input_shape)} in "
            f"{dataset.info.classes} classes; the experiment expects {shape_text(expected.input_shape)} in "
            f"{expected.classes}; correct data.shape and data.classes, or remove them and use --dataset"
        )
    return _first_test_images(_without_damaged(dataset, experiment), experiment.data.test_examples)


def _first_test_images(dataset: Dataset, number: int | None) -> Dataset:
    """Return the dataset with the first images of its test split only."""
    if number is None:
        return dataset
    row = dataset.info
    if number > (present := dataset.examples(row.test)):
        raise BnnError(
            f"data.test_examples = {number}, but {row.name!r} has {present} test images; expected at most as many; "
            "remove the key to score all"
        )
    return dataclasses.replace(
        dataset, info=dataclasses.replace(row, test=f"{row.test}[:{number}]", test_examples=number)
    )


def _without_damaged(dataset: Dataset, experiment: Experiment) -> Dataset:
    """Return the dataset without the damaged images that the experiment tolerates."""
    if not isinstance(dataset.reader, FolderReader):
        return dataset
    reader = dataclasses.replace(dataset.reader, max_damaged=experiment.data.max_damaged or 0)
    return dataclasses.replace(dataset, reader=reader)


def find_data(experiment: Experiment, location: DataLocation = DEFAULT_LOCATION) -> Dataset:
    """Return the dataset of an experiment without preparing it. Arguments and errors are those of `open_data`."""
    if experiment.data.name != FAKE:
        return find_dataset(experiment.data.name, location)
    examples = experiment.data.examples or 2 * max(stage.batch_size for stage in experiment.stages)
    row = dataclasses.replace(experiment.data.row, name=FAKE, train_examples=examples, test_examples=examples)
    return Dataset(row, FakeReader(row, examples, experiment.seed))


def open_test_data(experiment: Experiment, name: str, location: DataLocation = DEFAULT_LOCATION) -> Dataset:
    """Open another dataset to test an experiment's network on.

    Args:
        experiment: The experiment.
        name: As for `open_dataset`.
        location: As for `open_data`.

    Raises:
        BnnError: As `open_dataset`; or image shape or number of classes differ from those of the experiment's dataset.
    """
    expected, row = experiment.data.row, describe(name, location)
    if (row.input_shape, row.classes) != (expected.input_shape, expected.classes):
        raise BnnError(
            f"dataset {name!r} has images {shape_text(row.input_shape)} in {row.classes} classes; the network expects "
            f"{shape_text(expected.input_shape)} in {expected.classes}; choose a dataset of that shape"
        )
    return _without_damaged(open_dataset(name, location), experiment)


def available_data(experiment: Experiment, location: DataLocation = DEFAULT_LOCATION) -> Dataset | None:
    """Open the dataset of an experiment if that needs no download, else return None.

    Available are prepared datasets, "fake", and datasets that ship with the package. If such a dataset cannot be read,
    or not be prepared, a warning says why.
    """
    try:
        dataset = find_data(experiment, location)
        if not (dataset.reader.splits or dataset.info.module):
            return None
        dataset = open_data(experiment, location)
        next(iter(dataset.pairs(dataset.info.test)))
        return dataset
    except (BnnError, OSError, tf.errors.OpError) as error:
        warnings.warn(f"cannot read dataset {experiment.data.name!r}: {reason_of(error)}", stacklevel=1)
        return None


def training_examples(dataset: Dataset) -> Dataset:
    """Return the dataset with its training split as the test split.

    Example:
        >>> import bnn_keras
        >>> from bnn_keras.data import open_data, training_examples
        >>> experiment = bnn_keras.resolve("lenet5", dataset="fake").experiment
        >>> training_examples(open_data(experiment)).info.test
        'train'
    """
    row = dataset.info
    return dataclasses.replace(dataset, info=dataclasses.replace(row, test=row.train, test_examples=row.train_examples))


def open_dataset(name: str, location: DataLocation = DEFAULT_LOCATION) -> Dataset:
    """Open a dataset by name. Download and prepare it if necessary.

    A dataset that ships with the package is prepared in a temporary folder, with a warning, if TFDS's default folder
    cannot be written.

    Args:
        name: A dataset of the catalog, any other image classification dataset of TFDS, "image_folder" or "arrays".
        location: Folder of prepared datasets, and of manually downloaded files.

    Raises:
        BnnError: The name is unknown; the files can neither be downloaded nor found in `location.manual_dir`; TFDS
            cannot prepare them (no partly prepared dataset is left behind); or the dataset has no split "train".
    """
    row, reader = _find(name, location)
    if isinstance(reader, TfdsReader) and not reader.splits:
        folder = data_dir_of(reader.builder)
        if row.module and not location.data_dir and not is_writable(folder):
            warnings.warn(
                f"{str(folder)!r} cannot be written; dataset {name!r} is prepared in a temporary folder, which is "
                "removed at the end; set --data-dir DIR to keep it",
                stacklevel=1,
            )
            return open_dataset(name, dataclasses.replace(location, data_dir=temporary_data_dir()))
        prepare(reader.builder, location.manual_dir)
    train, test = _choose_splits(name, reader)
    return Dataset(dataclasses.replace(row, train=train, test=test), reader)


def find_dataset(name: str, location: DataLocation = DEFAULT_LOCATION) -> Dataset:
    """Return a dataset by name without preparing it.

    Args:
        name: As for `open_dataset`.
        location: As for `open_dataset`.

    Raises:
        BnnError: The name is unknown, or the dataset is not for image classification.

    Example:
        >>> from bnn_keras.data import find_dataset
        >>> dataset = find_dataset("cifar10")
        >>> dataset.info.classes, dataset.examples("test")
        (10, 10000)
    """
    return Dataset(*_find(name, location))


def describe(name: str, location: DataLocation = DEFAULT_LOCATION) -> catalog.DatasetRow:
    """Return the catalog row of a dataset, also of one outside the catalog, without downloading the dataset.

    Args:
        name: As for `open_dataset`.
        location: As for `open_dataset`.

    Returns:
        The row. Height and width are None if images differ in size; numbers of images are 0 if TFDS does not know them
        before preparing.

    Raises:
        BnnError: The name is unknown, or the dataset is not for image classification.

    Example:
        >>> from bnn_keras.data import describe
        >>> row = describe("cifar10")
        >>> row.input_shape, row.classes, row.train_examples
        ((32, 32, 3), 10, 50000)
    """
    return _find(name, location)[0]


def shape_text(shape: tuple[int | None, ...]) -> str:
    """Return height, width and channels as text for messages."""
    return " × ".join("any" if size is None else str(size) for size in shape)


def _find(name: str, location: DataLocation) -> tuple[catalog.DatasetRow, AnyReader]:
    own = _OWN_READERS.get(name)
    reader = own.open(location.data_dir) if own else TfdsReader(_builder(name, location))
    return catalog.DATASETS.get(name) or _row_of_reader(name, reader), reader


def _row_of_reader(name: str, reader: AnyReader) -> catalog.DatasetRow:
    row = catalog.DatasetRow.other(name, reader.shape, reader.classes)
    if isinstance(reader, ArraysReader):
        row = dataclasses.replace(row, mean=reader.normalization.mean, std=reader.normalization.std)
    if not reader.splits:
        return row
    train, test = _choose_splits(name, reader)
    own = [split for split in TEST_SPLITS[1:] if split != test and reader.splits.get(split)]
    return dataclasses.replace(
        row,
        train=train,
        test=test,
        train_examples=reader.count(train),
        test_examples=reader.count(test),
        validation=own[0] if own and _has_labels(reader, own[0]) else row.validation,
    )


def _choose_splits(name: str, reader: Reader) -> tuple[str, str]:
    """Return the training split and the test split.

    Datasets of the catalog name their splits. Others test on the first labelled split of `TEST_SPLITS`, or on the last
    tenth of "train" if there is none.
    """
    row = catalog.DATASETS.get(name)
    splits = reader.splits
    candidates = (row.test,) if row else TEST_SPLITS
    test = next(
        (split for split in candidates if splits.get(_base_split(split)) and (row or _has_labels(reader, split))), None
    )
    if splits.get("train") and test:
        return row.train if row else "train", test
    if splits.get("train") and not row and name not in _OWN_READERS:
        return _PARTS_OF_TRAIN
    present = ", ".join(split for split, examples in splits.items() if examples) or "none"
    raise BnnError(
        f"dataset {name!r} has images in the splits {present}; expected train and {' or '.join(candidates)}; "
        "prepare it again from all of its files"
    )


def _base_split(split: str) -> str:
    """Return the split that a part such as "test[:10%]" is taken from."""
    return split.partition("[")[0]


def _has_labels(reader: Reader, split: str) -> bool:
    """Return whether the first image has a label. TFDS stores −1 for the secret labels of a competition."""
    return any(int(label) >= 0 for _, label in reader.read(split).take(1))


def _builder(name: str, location: DataLocation) -> tfds.core.DatasetBuilder:
    """Return TFDS's builder of a dataset.

    Raises:
        BnnError: The name is unknown, or TFDS cannot open the dataset.
    """
    if name == FAKE:
        raise BnnError(
            "dataset 'fake' needs an experiment, which sets image shape and classes; set data.name=fake in one"
        )
    row = catalog.DATASETS.get(name)
    if row and row.module:
        importlib.import_module(row.module)
    known = tfds.list_builders(with_community_datasets=False)
    if name.split("/")[0].split(":")[0] not in known:
        guess = nearest(name, [*catalog.DATASETS, *_KNOWN]) or nearest(name, known)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise BnnError(
            f"unknown dataset {name!r}; {hint}known: {', '.join([*catalog.DATASETS, *_KNOWN])}, "
            "and every image classification dataset of TFDS"
        )
    try:
        return tfds.builder(name, data_dir=str(Path(location.data_dir).expanduser()) if location.data_dir else None)
    except (ValueError, ImportError, AttributeError) as error:
        reason = str(error)[:300]
        raise BnnError(
            f"TFDS cannot open dataset {name!r} ({reason}); expected NAME or NAME/CONFIG, such as mnist"
        ) from error
