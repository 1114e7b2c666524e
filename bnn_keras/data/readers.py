"""Where images come from: what TFDS has prepared, folders of image files, or nowhere, made up."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Protocol

import tensorflow as tf
import tensorflow_datasets as tfds

from bnn_keras import catalog
from bnn_keras.errors import BnnError

HELD = 2**31  # bytes of pixels, of both splits, that are decoded once and held in memory
READERS = 16  # files read in turn, of a dataset that is not held in memory
MADE_UP = 512  # images made up that differ; a longer split has them again
MADE_UP_SIZE = (375, 500)  # of encoded ones: ImageNet's commonest


class Reader(Protocol):
    """Images with labels, in splits.

    Attributes:
        version: Of the data.
        labels: Names of the classes, in the order of the logits.
        splits: Their numbers of images; empty where nothing is prepared.
        encoded: Whether `read` gives the bytes of image files instead of pixels.
        folder: Where they are, or will be; None where they are in no file.
    """

    version: str
    labels: list[str]
    splits: Mapping[str, int]
    encoded: bool
    folder: str | None

    def count(self, split: str) -> int:
        """Images in a split, which may be a part of one: "train[:90%]"."""

    def read(self, split: str) -> tf.data.Dataset:
        """(image, label) pairs, always in the same order."""


@dataclasses.dataclass(frozen=True)
class TfdsReader:
    """A TFDS builder of an image classification dataset."""

    builder: tfds.core.DatasetBuilder

    @property
    def keys(self) -> tuple[str, str]:
        """Names of the features that hold image and label.

        Raises:
            BnnError: There are no such two.
        """
        features = self.builder.info.features
        keys = self.builder.info.supervised_keys or ("image", "label")
        kinds = (tfds.features.Image, tfds.features.ClassLabel)
        fits = len(keys) == 2 and all(
            isinstance(key, str) and key in features and isinstance(features[key], kind)
            for key, kind in zip(keys, kinds, strict=True)
        )
        if not fits or tf.as_dtype(features[keys[0]].dtype) != tf.uint8 or not features[keys[1]].num_classes:
            raise BnnError(
                f"dataset {self.builder.name!r} has {', '.join(features)}; expected 8-bit images with one label each; "
                "choose a dataset for image classification"
            )
        return keys

    @property
    def shape(self) -> tuple[int | None, int | None, int]:
        """Height, width, channels; height and width None where images differ."""
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
        """Names of the classes."""
        return list(self.builder.info.features[self.keys[1]].names)

    @property
    def splits(self) -> dict[str, int]:
        """Numbers of images; empty where it is not prepared."""
        return {name: split.num_examples for name, split in self.builder.info.splits.items()}

    @property
    def encoded(self) -> bool:
        """True where images differ in size, or are too many to be held in memory."""
        height, width, channels = self.shape
        return not (height and width) or math.prod((height, width, channels, sum(self.splits.values()))) > HELD

    @property
    def folder(self) -> str:
        """TFDS's folder of this version of it, or that of the images."""
        return str(self.builder.data_path)

    def count(self, split: str) -> int:
        """Images in a split or a part of one."""
        return self.builder.info.splits[split].num_examples

    def read(self, split: str) -> tf.data.Dataset:
        """(image, label) pairs in TFDS's own order."""
        image, label = self.keys
        config = tfds.ReadConfig(
            try_autocache=False,
            interleave_cycle_length=READERS if self.encoded else 1,
            enable_ordering_guard=False,
        )
        decoders = {image: tfds.decode.SkipDecoding()} if self.encoded else None
        examples = self.builder.as_dataset(split, decoders=decoders, shuffle_files=False, read_config=config)
        pairs = examples.map(lambda features: (features[image], features[label]))
        return pairs if self.encoded else pairs.cache()


@dataclasses.dataclass(frozen=True)
class FakeReader:
    """Images made up: blurred colours and noise, a function of (seed, split, number).

    Attributes:
        row: Says their shape and the number of classes; JPEG files of `MADE_UP_SIZE` where its images differ in size.
        examples: Images in each of the two splits.
        seed: Of colours, noise and labels.
    """

    row: catalog.DatasetRow
    examples: int
    seed: int

    version = "1.0.0"
    folder = None

    @property
    def labels(self) -> list[str]:
        """Numbers."""
        return [str(number) for number in range(self.row.classes)]

    @property
    def splits(self) -> dict[str, int]:
        """The same number of images in both."""
        return dict.fromkeys((self.row.train, self.row.test), self.examples)

    @property
    def encoded(self) -> bool:
        """Where the images of the dataset that these stand for differ in size."""
        return self.row.input_shape[0] is None

    def count(self, split: str) -> int:
        """Images in a split."""
        return self.splits[split]

    def read(self, split: str) -> tf.data.Dataset:
        """(image, label) pairs; the images repeat after `MADE_UP`."""
        place = tf.constant([self.seed, list(self.splits).index(split)], tf.int64)
        numbers = tf.data.Dataset.range(self.examples)
        images = numbers.take(MADE_UP).map(lambda number: self._image(place, number), tf.data.AUTOTUNE).cache()
        labels = numbers.map(lambda number: self._label(place, number))
        return tf.data.Dataset.zip((images.repeat(), labels)).take(self.examples)

    def _label(self, place: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        place = tf.random.experimental.stateless_fold_in(place, -1 - number)
        return tf.random.stateless_uniform([], place, 0, self.row.classes, tf.int64)

    def _image(self, place: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        *size, channels = self.row.input_shape
        height, width = MADE_UP_SIZE if self.encoded else size
        place = tf.random.experimental.stateless_fold_in(place, number)
        colours = tf.random.stateless_uniform([4, 4, channels], place, 0, 255)
        noise = tf.random.stateless_normal([height, width, channels], place, stddev=12)
        pixels = tf.image.resize(colours, [height, width]) + noise
        image = tf.saturate_cast(tf.round(pixels), tf.uint8)
        return tf.io.encode_jpeg(image) if self.encoded else image
