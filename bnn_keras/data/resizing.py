"""Resize and crop images to the network's size, decoding only the needed part of a JPEG."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment

RESIZE_RATIO = 256 / 224  # resized side / network's side if `data.resize` is not set

# `data.interpolation` with antialiasing → (TensorFlow's name of the kernel, its radius in pixels).
_KERNELS = {"bilinear": ("triangle", 1), "bicubic": ("keyscubic", 2)}


@dataclasses.dataclass(frozen=True)
class LazyImage:
    """An image that is decoded when a box of it is cropped.

    Attributes:
        size: Height and width, int32.
        crop: Function that maps a box (top, left, height, width), int32, to its pixels (height, width, channels),
            uint8.
    """

    size: tf.Tensor
    crop: Callable[[tf.Tensor], tf.Tensor]

    def full_box(self) -> tf.Tensor:
        """Return the box (0, 0, height, width)."""
        return tf.concat([[0, 0], self.size], 0)


def lazy_image(data: tf.Tensor, channels: int) -> LazyImage:
    """Build a `LazyImage` from pixels or from an image file.

    Of a JPEG, only the cropped box is decoded. Other files are decoded as a whole.

    Args:
        data: Pixels (height, width, channels), uint8, or the bytes of a JPEG, PNG, BMP or GIF file (a string scalar).
        channels: Number of channels to decode.
    """
    if data.dtype != tf.string:
        return LazyImage(tf.shape(data)[:2], lambda box: _slice(data, box))
    is_jpeg = tf.io.is_jpeg(data)
    decoded = tf.cond(
        is_jpeg,
        lambda: tf.zeros([0, 0, channels], tf.uint8),
        lambda: tf.io.decode_image(data, channels=channels, expand_animations=False),
    )
    decoded.set_shape([None, None, channels])
    size = tf.cond(is_jpeg, lambda: tf.io.extract_jpeg_shape(data)[:2], lambda: tf.shape(decoded)[:2])

    def crop(box: tf.Tensor) -> tf.Tensor:
        return tf.cond(is_jpeg, lambda: _decode_jpeg_box(data, box, size, channels), lambda: _slice(decoded, box))

    return LazyImage(size, crop)


def _decode_jpeg_box(jpeg: tf.Tensor, box: tf.Tensor, size: tf.Tensor, channels: int) -> tf.Tensor:
    """Decode a box of a JPEG to the same pixels as decoding all of it.

    Chroma upsampling reads neighbouring pixels, so a margin of two pixels is decoded and cut off.
    """
    first = tf.maximum(box[:2] - 2, 0)
    last = tf.minimum(box[:2] + box[2:] + 2, size)
    with_margin = tf.image.decode_and_crop_jpeg(jpeg, tf.concat([first, last - first], 0), channels=channels)
    return _slice(with_margin, tf.concat([box[:2] - first, box[2:]], 0))


def _slice(pixels: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    return tf.slice(pixels, tf.concat([box[:2], [0]], 0), tf.concat([box[2:], [-1]], 0))


def check_resize(experiment: Experiment) -> None:
    """Verify that `data.resize` is at least the network's size.

    Raises:
        BnnError: `data.resize` is smaller than the network's height or width.
    """
    height, width, _ = experiment.input_shape
    resize = experiment.data.resize
    if resize and resize < max(height, width):
        raise BnnError(
            f"data.resize = {resize} is smaller than the network's input of {height} × {width} pixels, which is "
            f"cropped from the resized image; set it to {max(height, width)} or more"
        )


def resized_size(size: tf.Tensor, experiment: Experiment) -> tf.Tensor:
    """Return height and width of an image after resizing and before cropping.

    With `data.keep_aspect`, the shorter side becomes `data.resize`; otherwise both sides do. The default of
    `data.resize` is 256 / 224 of the network's size.

    Args:
        size: Height and width of the image, int32.
        experiment: The experiment.
    """
    network_size = tf.constant(experiment.input_shape[:2], tf.float32)
    before = tf.cast(size, tf.float32)
    resize = experiment.data.resize
    if not experiment.data.keep_aspect:
        after = tf.fill([2], float(resize)) if resize else network_size * RESIZE_RATIO
    elif resize:
        after = before * (resize / tf.reduce_min(before))
    else:
        after = before * (tf.reduce_max(network_size / before) * RESIZE_RATIO)
    return tf.cast(tf.round(after), tf.int32)


def crop_of_resized(
    image: LazyImage, experiment: Experiment, choose_corner: Callable[[tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    """Resize an image to `resized_size` and crop the network's size from it.

    With antialiasing, only the pixels that contribute to the crop are decoded and resized. "tf1_bicubic" resizes the
    whole image.

    Args:
        image: The image.
        experiment: The experiment.
        choose_corner: Function that maps the largest possible corner (top, left), int32, to the corner of the crop.

    Returns:
        Pixels 0…255 as float32, (height, width, channels). "tf1_bicubic" can exceed that range.
    """
    height, width, channels = experiment.input_shape
    crop_size = tf.constant([height, width])
    full_size = resized_size(image.size, experiment)
    if experiment.data.interpolation == "tf1_bicubic":
        resized = _tf1_bicubic(image.crop(image.full_box()), full_size)
        corner = choose_corner(full_size - crop_size)
        return tf.ensure_shape(_slice(resized, tf.concat([corner, crop_size], 0)), [height, width, channels])
    kernel, radius = _KERNELS[experiment.data.interpolation]
    scale = tf.cast(full_size, tf.float32) / tf.cast(image.size, tf.float32)
    corner = choose_corner(full_size - crop_size)
    # The crop's box in the original image, enlarged by the pixels that the resize kernel reads around it.
    margin = radius * tf.maximum(1 / scale, 1.0) + 1
    first = tf.floor(tf.cast(corner, tf.float32) / scale - margin)
    last = tf.math.ceil(tf.cast(corner + crop_size, tf.float32) / scale + margin)
    first = tf.maximum(tf.cast(first, tf.int32), 0)
    last = tf.minimum(tf.cast(last, tf.int32), image.size)
    pixels = image.crop(tf.concat([first, last - first], 0))
    translation = tf.cast(first, tf.float32) * scale - tf.cast(corner, tf.float32)
    resized = tf.raw_ops.ScaleAndTranslate(
        images=pixels[None], size=crop_size, scale=scale, translation=translation, kernel_type=kernel, antialias=True
    )[0]
    return tf.ensure_shape(tf.clip_by_value(resized, 0.0, 255.0), [height, width, channels])


def resize_box(image: LazyImage, experiment: Experiment, box: tf.Tensor) -> tf.Tensor:
    """Crop a box (top, left, height, width) and resize it to the network's size.

    Returns:
        Pixels 0…255 as float32, (height, width, channels). "tf1_bicubic" can exceed that range.
    """
    height, width, channels = experiment.input_shape
    method = experiment.data.interpolation
    if method == "tf1_bicubic":
        return tf.ensure_shape(_tf1_bicubic(image.crop(box), [height, width]), [height, width, channels])
    resized = tf.image.resize(image.crop(box), [height, width], method, antialias=True)
    return tf.ensure_shape(tf.clip_by_value(resized, 0.0, 255.0), [height, width, channels])


def _tf1_bicubic(pixels: tf.Tensor, size: tf.Tensor | list[int]) -> tf.Tensor:
    """Resize pixels as TensorFlow 1's `tf.image.resize_bicubic`: output pixel i is at i · (input size / output size).

    Source: rethinking-bnn-optimization, bnn_optimization/data/imagenet.py.
    """
    return tf.raw_ops.ResizeBicubic(images=pixels[None], size=size, align_corners=False, half_pixel_centers=False)[0]


def shares_box(image: LazyImage, experiment: Experiment) -> tf.Tensor:
    """Return the box in the centre of an image that `data.crop_first` cuts out for tests.

    Its sides are the share network's side / `data.resize` (by default 224/256) of the image's shorter side, rounded
    down. Odd margins are larger on top and on the left.

    Source: rethinking-bnn-optimization, bnn_optimization/data/imagenet.py.
    """
    sides, resize = experiment.input_shape[:2], experiment.data.resize
    shares = tf.constant([side / resize if resize else 1 / RESIZE_RATIO for side in sides], tf.float32)
    box_size = tf.maximum(tf.cast(shares * tf.cast(tf.reduce_min(image.size), tf.float32), tf.int32), 1)
    return tf.concat([(image.size - box_size + 1) // 2, box_size], 0)


def centre_box(image: LazyImage, experiment: Experiment) -> tf.Tensor:
    """Return the largest box of the network's aspect in the centre of an image; without `keep_aspect`, the full box."""
    if not experiment.data.keep_aspect:
        return image.full_box()
    aspect = tf.constant(experiment.input_shape[:2], tf.float32)
    scale = tf.reduce_min(tf.cast(image.size, tf.float32) / aspect)
    box_size = tf.maximum(tf.cast(tf.round(aspect * scale), tf.int32), 1)
    return tf.concat([(image.size - box_size) // 2, box_size], 0)


def resize_for_evaluation(image: LazyImage, experiment: Experiment) -> tf.Tensor:
    """Bring an image to the network's size without augmentation.

    The shorter side is resized and the centre is cropped: to `resized_size` if the dataset's images differ in size, and
    to the network's size if they all have one. With `data.keep_aspect = false`, both sides are resized. With
    `data.crop_first`, the centre is cropped first (`shares_box`).

    Returns:
        Pixels 0…255 as uint8, (height, width, channels); with "tf1_bicubic" as float32, neither clipped nor rounded.
    """
    if experiment.data.row.input_shape[0] is None and experiment.data.crop_first:
        pixels = resize_box(image, experiment, shares_box(image, experiment))
    elif experiment.data.row.input_shape[0] is None:
        pixels = crop_of_resized(image, experiment, lambda max_corner: max_corner // 2)
    else:
        pixels = resize_box(image, experiment, centre_box(image, experiment))
    return pixels if experiment.data.interpolation == "tf1_bicubic" else tf.cast(tf.round(pixels), tf.uint8)


def resize_and_crop(image: tf.Tensor, experiment: Experiment) -> tf.Tensor:
    """Bring pixels of any size to the network's size, as evaluation does. Images of that size are returned unchanged.

    Args:
        image: Pixels 0…255, (height, width, channels), uint8.
        experiment: The experiment. If its dataset's images differ in size, the shorter side is resized to
            `data.resize`, else to the network's size; the centre is cropped.

    Returns:
        Pixels 0…255 as uint8, (height, width, channels); with "tf1_bicubic" as float32, unless returned unchanged.

    Raises:
        BnnError: `data.resize` is smaller than the network's size.

    Example:
        >>> import numpy as np
        >>> import bnn_keras
        >>> from bnn_keras.data import resize_and_crop
        >>> experiment = bnn_keras.resolve("lenet5").experiment
        >>> resize_and_crop(np.zeros((56, 56, 1), np.uint8), experiment).shape
        TensorShape([28, 28, 1])
    """
    check_resize(experiment)
    height, width, channels = experiment.input_shape
    if image.shape[:2] == (height, width):
        return image
    return resize_for_evaluation(lazy_image(tf.convert_to_tensor(image), channels), experiment)
