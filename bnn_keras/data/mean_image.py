"""Mean images: per-pixel means of a training set, which some references subtract instead of one mean per channel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from bnn_keras.data.augmentation import random_corner_of_crop
from bnn_keras.data.datasets import Dataset
from bnn_keras.data.resizing import lazy_image
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment
from bnn_keras.experiment.schema import MEAN_IMAGE

SIZE = 256  # of the mean image of a dataset whose images differ in size

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}
# Fields of Caffe's BlobProto.
_NUM, _CHANNELS, _HEIGHT, _WIDTH, _DATA, _SHAPE, _DOUBLES = 1, 2, 3, 4, 5, 7, 8
_DIM = 1  # of BlobShape


def read_mean_image(path: str | Path) -> np.ndarray:
    """Read a mean image, float32 (height, width, channels), of pixels 0…255.

    Args:
        path: A `.npy` file of that shape, or a `.binaryproto` file of Caffe: a BlobProto of shape (1, channels, height,
            width), whose channels are blue, green and red.

    Raises:
        BnnError: The file does not exist, or is damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/mean.npy", np.full((4, 4, 3), 120.0))
        ...     read_mean_image(f"{folder}/mean.npy").shape
        (4, 4, 3)
    """
    try:
        if Path(path).suffix == ".binaryproto":
            array = _blob(Path(path).read_bytes())
        else:
            array = np.load(path, allow_pickle=False)
        array = np.asarray(array, np.float32)
        if array.ndim != 3 or not np.isfinite(array).all():
            raise ValueError(f"shape {array.shape}, or values that are not finite")
    except (OSError, ValueError, EOFError, IndexError, KeyError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BnnError(
            f"cannot read {str(path)!r} as a mean image ({reason}); expected a .npy file of (height, width, channels) "
            "or a .binaryproto file of Caffe; make one with `bnnk datasets mean`, and set data.mean_image to it"
        ) from error
    return array


def _blob(content: bytes) -> np.ndarray:
    """Return a BlobProto of Caffe, (height, width, channels). Source: Caffe, src/caffe/proto/caffe.proto."""
    sizes, dims, floats, doubles = {}, [], b"", b""
    for field, value in _fields(content):
        if isinstance(value, int):
            sizes[field] = value
        elif field == _SHAPE:
            dims = [size for number, part in _fields(value) if number == _DIM for size in _varints(part)]
        elif field == _DATA:
            floats += value
        elif field == _DOUBLES:
            doubles += value
    values = np.frombuffer(doubles, "<f8") if doubles else np.frombuffer(floats, "<f4")
    shape = dims or [sizes.get(field, 1) for field in (_NUM, _CHANNELS, _HEIGHT, _WIDTH)]
    return values.reshape(shape[-3:]).transpose(1, 2, 0)


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and the value of each field of a protocol buffer."""
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        kind = key & 7
        if kind == _VARINT:
            value, position = _varint(content, position)
            yield key >> 3, value
            continue
        length, position = _varint(content, position) if kind == _BYTES else (_WIDTHS[kind], position)
        if position + length > len(content):
            raise ValueError("it is truncated")
        yield key >> 3, content[position : position + length]
        position += length


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = content[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _varints(packed: int | bytes) -> Iterator[int]:
    if isinstance(packed, int):
        yield packed
        return
    position = 0
    while position < len(packed):
        value, position = _varint(packed, position)
        yield value


def central_mean(experiment: Experiment) -> np.ndarray | None:
    """Return the part of the mean image in its centre, in the network's size; None without `data.mean_image`."""
    if experiment.data.mean_image is None:
        return None
    mean = experiment.arrays[MEAN_IMAGE]
    height, width, _ = experiment.input_shape
    top, left = ((size - crop) // 2 for size, crop in zip(mean.shape, (height, width), strict=False))
    return mean[top : top + height, left : left + width]


def move_mean(image: tf.Tensor, experiment: Experiment, seed: tf.Tensor, mirrored: tf.Tensor) -> tf.Tensor:
    """Add to a cropped image what the mean image has in the centre, less what it has at the place of the crop.

    Normalization, which subtracts the centre of the mean image, then subtracts the part where the crop is. In the
    reference, images are mirrored before they are cropped, and the mean image is not: mirrored images have their crop
    on the other side. Here they are mirrored later, so what is added to them is mirrored, too.

    Args:
        image: Pixels of the network's size.
        experiment: The experiment.
        seed: Two int64, those of the crop.
        mirrored: Whether the image will be mirrored.

    Source: XNOR-Net-PyTorch at commit 119050f, ImageNet/networks/main.py and ImageNet/datasets/transforms.py.
    """
    central, augmentation = central_mean(experiment), experiment.data.augmentation
    if central is None or augmentation is None or augmentation.crop != "random":
        return image
    whole = experiment.arrays[MEAN_IMAGE]
    if whole.shape == central.shape:
        return image
    order = -1 if experiment.data.channels == "bgr" else 1
    mean = tf.constant(whole[..., ::order])
    largest = tf.shape(mean)[:2] - tf.shape(image)[:2]
    corner = random_corner_of_crop(largest, seed)
    corner = tf.where(mirrored, tf.stack([corner[0], largest[1] - corner[1]]), corner)
    part = tf.slice(mean, tf.concat([corner, [0]], 0), tf.shape(image))
    added = central[..., ::order] - part
    return tf.cast(image, tf.float32) + tf.where(mirrored, added[:, ::-1], added)


def mean_image_of(dataset: Dataset, size: int = SIZE, channels: str = "rgb") -> np.ndarray:
    """Return the mean of all training images, float32 (height, width, channels).

    Args:
        dataset: The dataset.
        size: Height and width to which images are resized if they differ in size.
        channels: Order of the channels, "rgb" or "bgr".

    Example:
        >>> from bnn_keras import resolve
        >>> from bnn_keras.data import open_data
        >>> experiment = resolve("lenet5", dataset="fake", overrides=["data.examples=6"]).experiment
        >>> mean_image_of(open_data(experiment)).shape
        (28, 28, 1)
    """
    height, _, depth = dataset.info.input_shape

    def resized(data: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        image = lazy_image(data, depth)
        pixels = image.crop(image.full_box())
        if height is None:
            pixels = tf.clip_by_value(tf.image.resize(pixels, [size, size], antialias=True), 0.0, 255.0)
        return tf.cast(pixels, tf.float64)

    images = dataset.pairs(dataset.info.train).map(resized, tf.data.AUTOTUNE).batch(64)
    total = sum(batch.numpy().sum(0) for batch in images)
    mean = np.asarray(total / dataset.examples(dataset.info.train), np.float32)
    return mean[..., ::-1] if channels == "bgr" else mean
