"""Readers of images and labels: prepared by TFDS, or generated."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from bnn_keras import catalog
from bnn_keras.data.shuffling import SHUFFLE_BUFFER, Order, buffered_order, sharded_order
from bnn_keras.errors import BnnError

MAX_CACHED_BYTES = 2**31  # of decoded pixels, of all splits together; larger datasets are read from their files
INTERLEAVED_FILES = 16  # read at once in the fixed order, of a dataset that is not held in memory
READ_BYTES = 2**20  # read at once from each file, in a random order of files
DISTINCT_FAKE_IMAGES = 512  # per split; longer splits repeat them
# A file ends within a record, is missing, or ends too early.
_UNREADABLE = (tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.FailedPreconditionError)
FAKE_JPEG_SIZE = (375, 500)  # height, width; the most frequent size in ImageNet


def reason_of(error: Exception) -> str:
    """Return the first line of an error without TensorFlow's graph and node names and Python's object names."""
    message = str(getattr(error, "message", None) or getattr(error, "strerror", None) or error or type(error).__name__)
    message = re.sub(r"Error in user-defined function .*?iterator: \S+: (ValueError: )?", "", message)
    message = re.sub(r"Graph execution error:\s*|Detected at node.*\s*|<stack traces.*\s*", "", message)
    message = re.sub(r'^\s*File ".*', "", message, flags=re.MULTILINE).strip()  # TensorFlow's stack of the node
    first, *_ = message.splitlines() or [type(error).__name__]
    return re.sub(r"\{\{.*?\}\} ?|\[Op:.*| <.*?>", "", first).strip(" .")


@contextlib.contextmanager
def decoding(name: str) -> Iterator[None]:
    """Convert TensorFlow's errors for unreadable or damaged images into a `BnnError` that names the dataset."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        reason = reason_of(error)
        if not re.search("image|jpeg|png", reason, re.IGNORECASE):
            raise
        raise BnnError(
            f"cannot decode an image of dataset {name!r} ({reason}); expected image files; list the "
            "damaged files of a folder with `bnnk datasets check DIR`, or prepare the dataset again"
        ) from error
    except _UNREADABLE as error:
        raise BnnError(
            f"cannot read the images of dataset {name!r} ({reason_of(error)}); its files were changed or removed; "
            "restore them, or prepare the dataset again"
        ) from error


def ranges(split: str, size_of: Callable[[str], int]) -> list[tuple[str, int, int]]:
    """Return the parts of a split in the notation of TFDS as (split, start, stop), such as "train[:10]+train[20:]".

    Args:
        split: The split.
        size_of: Returns the number of images of a split.
    """
    sizes = {name: size_of(name) for name in (part.partition("[")[0] for part in split.split("+"))}
    infos = {
        name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0, filename_template=None)
        for name, size in sizes.items()
    }
    parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    return [(part.splitname, part.from_ or 0, sizes[part.splitname] if part.to is None else part.to) for part in parts]


class Reader(Protocol):
    """Interface of a source of images with labels, in splits."""

    @property
    def version(self) -> str:
        """Version of the data."""

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of the logits."""

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of images by split; empty if the dataset is not prepared."""

    @property
    def encoded(self) -> bool:
        """Whether `read` yields the bytes of image files instead of pixels."""

    @property
    def folder(self) -> str | None:
        """Folder of the dataset, prepared or not; None if it is not stored in files."""

    @property
    def details(self) -> dict[str, Any]:
        """What identifies the images besides version and labels, for environment.json."""

    def count(self, split: str) -> int:
        """Return the number of images in a split or in parts of it, such as "train[:90%]" (see `ranges`)."""

    def read(self, split: str) -> tf.data.Dataset:
        """Return (image, label) pairs of a split or of parts of it, always in the same order."""

    def order(self, split: str) -> Order:
        """Return the shuffle order of a training split: seed of an epoch → (index, (image, label)).

        The index of an image is the same in every epoch.
        """


@dataclasses.dataclass(frozen=True)
class TfdsReader:
    """Reader of an image classification dataset of TFDS.

    Attributes:
        builder: TFDS's builder of the dataset.
    """

    builder: tfds.core.DatasetBuilder

    @property
    def keys(self) -> tuple[str, str]:
        """Names of the image feature and of the label feature.

        Raises:
            BnnError: The dataset does not have exactly one 8-bit image and one class label.
        """
        features = self.builder.info.features
        keys = self.builder.info.supervised_keys or ("image", "label")
        kinds = (tfds.features.Image, tfds.features.ClassLabel)
        fits = len(keys) == 2 and all(
            isinstance(key, str) and key in features and isinstance(features[key], kind)
            for key, kind in zip(keys, kinds, strict=True)
        )
        if not fits or features[keys[0]].np_dtype != np.uint8 or not features[keys[1]].num_classes:
            raise BnnError(
                f"dataset {self.builder.name!r} has the features {', '.join(features)}; expected 8-bit images with one "
                "class label each; choose a dataset for image classification"
            )
        return keys

    @property
    def shape(self) -> tuple[int | None, int | None, int]:
        """Height, width and channels; height and width are None if images differ in size."""
        height, width, channels = self.builder.info.features[self.keys[0]].shape
        return (height, width, channels or 3) if height and width else (None, None, channels or 3)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.builder.info.features[self.keys[1]].num_classes

    @property
    def version(self) -> str:
        """TFDS's version of the dataset."""
        return str(self.builder.version)

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of the logits."""
        return list(self.builder.info.features[self.keys[1]].names)

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of images by split; empty if the dataset is not prepared."""
        return {name: split.num_examples for name, split in self.builder.info.splits.items()}

    @property
    def encoded(self) -> bool:
        """Whether images differ in size, or their pixels need more than `MAX_CACHED_BYTES`."""
        height, width, channels = self.shape
        if height is None or width is None:
            return True
        return math.prod((height, width, channels, sum(self.splits.values()))) > MAX_CACHED_BYTES

    @property
    def folder(self) -> str:
        """TFDS's folder of this version of the dataset, or the folder of images."""
        return str(self.builder.data_path)

    @property
    def details(self) -> dict[str, Any]:
        """Nothing: the version identifies the images."""
        return {}

    def count(self, split: str) -> int:
        """Return the number of images in a split or in a part of it."""
        return self.builder.info.splits[split].num_examples

    def read(self, split: str) -> tf.data.Dataset:
        """Return (image, label) pairs in the order in which TFDS stores them."""
        image, label = self.keys
        config = tfds.ReadConfig(
            try_autocache=False,
            interleave_cycle_length=INTERLEAVED_FILES if self.encoded else 1,
            enable_ordering_guard=False,
        )
        examples = self.builder.as_dataset(split, decoders=self._decoders, shuffle_files=False, read_config=config)
        pairs = examples.map(lambda features: (features[image], features[label]))
        return pairs if self.encoded else pairs.cache()

    @property
    def _decoders(self) -> dict[str, Any] | None:
        return {self.keys[0]: tfds.decode.SkipDecoding()} if self.encoded else None

    def order(self, split: str) -> Order:
        """Return a full shuffle of images that fit into memory or into the buffer, else one by files (`sharded_order`).

        The index of an image is its position in the order of `read`, or in that of the files.
        """
        count = self.count(split)
        if not self.encoded or count <= SHUFFLE_BUFFER:
            return buffered_order(self.read(split), count)
        image, label = self.keys
        features, decoders = self.builder.info.features, self._decoders
        files = self.builder.info.splits[split].file_instructions
        names = tf.constant([str(file.filename) for file in files])
        skipped = tf.constant([file.skip for file in files], tf.int64)

        def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            example = features.deserialize_example(record, decoders=decoders)
            return example[image], example[label]

        def read_file(file: tf.Tensor, start: tf.Tensor, number: tf.Tensor) -> tf.data.Dataset:
            records = tf.data.TFRecordDataset(names[file], buffer_size=READ_BYTES)
            complete = tf.data.experimental.assert_cardinality(number)  # an emptied file has no records
            return records.skip(skipped[file] + start).take(number).apply(complete).map(parse)

        return sharded_order([file.take for file in files], read_file)


@dataclasses.dataclass(frozen=True)
class FakeReader:
    """Reader of generated images: blurred colours and noise, a function of (seed, split, index).

    Attributes:
        row: The dataset that the images replace; sets their shape and the number of classes. If its images differ in
            size, the generated ones are JPEG files of `FAKE_JPEG_SIZE`.
        examples: Number of images in each of the two splits.
        seed: Seed of colours, noise and labels.
    """

    row: catalog.DatasetRow
    examples: int
    seed: int

    @property
    def version(self) -> str:
        """Version of the generated images."""
        return "1.0.0"

    @property
    def folder(self) -> None:
        """None: no files are stored."""
        return None

    @property
    def labels(self) -> list[str]:
        """Numbers of the classes, as text."""
        return [str(number) for number in range(self.row.classes)]

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of images by split."""
        return dict.fromkeys((self.row.train, self.row.test), self.examples)

    @property
    def encoded(self) -> bool:
        """Whether the images of the replaced dataset differ in size."""
        return self.row.input_shape[0] is None

    @property
    def details(self) -> dict[str, Any]:
        """Nothing: the experiment identifies the images."""
        return {}

    def count(self, split: str) -> int:
        """Return the number of images in a split or in parts of it."""
        return sum(stop - start for _, start, stop in ranges(split, self.splits.__getitem__))

    def read(self, split: str) -> tf.data.Dataset:
        """Return (image, label) pairs; the images repeat after `DISTINCT_FAKE_IMAGES`."""
        first, *others = (self._read(*part) for part in ranges(split, self.splits.__getitem__))
        return functools.reduce(tf.data.Dataset.concatenate, others, first)

    def order(self, split: str) -> Order:
        """Return a shuffle through a buffer, of all images if they are held in memory."""
        return buffered_order(self.read(split), SHUFFLE_BUFFER if self.encoded else self.count(split))

    def _read(self, split: str, start: int, stop: int) -> tf.data.Dataset:
        seed = tf.constant([self.seed, list(self.splits).index(split)], tf.int64)
        indices = tf.data.Dataset.range(self.examples)
        distinct = indices.take(DISTINCT_FAKE_IMAGES)
        images = distinct.map(lambda index: self._image(seed, index), tf.data.AUTOTUNE).cache()
        labels = indices.map(lambda index: self._label(seed, index))
        return tf.data.Dataset.zip((images.repeat(), labels)).take(stop).skip(start)

    def _label(self, split_seed: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        seed = tf.random.experimental.stateless_fold_in(split_seed, -1 - index)
        return tf.random.stateless_uniform([], seed, 0, self.row.classes, tf.int64)

    def _image(self, split_seed: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        *size, channels = self.row.input_shape
        height, width = FAKE_JPEG_SIZE if self.encoded else size
        seed = tf.random.experimental.stateless_fold_in(split_seed, index)
        colours = tf.random.stateless_uniform([4, 4, channels], seed, 0, 255)
        noise = tf.random.stateless_normal([height, width, channels], seed, stddev=12)
        pixels = tf.image.resize(colours, [height, width]) + noise
        image = tf.saturate_cast(tf.round(pixels), tf.uint8)
        return tf.io.encode_jpeg(image) if self.encoded else image
