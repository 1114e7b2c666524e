"""Images of any size on their way into the size that the network takes; only what is needed of a JPEG is decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment

MARGIN = 256 / 224  # of the shorter side round the part that is cut out, where `data.resize` says nothing else

# By `data.interpolation`: the kernel as TensorFlow calls it, and how many pixels it reaches.
_KERNELS = {"bilinear": ("triangle", 1), "bicubic": ("keyscubic", 2)}


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image to cut from.

    Attributes:
        sides: Height and width, int32.
        cut: From a box (top, left, height, width), int32, to its pixels (height, width, channels), uint8.
    """

    sides: tf.Tensor
    cut: Callable[[tf.Tensor], tf.Tensor]

    def whole(self) -> tf.Tensor:
        """All pixels."""
        return self.cut(tf.concat([[0, 0], self.sides], 0))


def picture_of(data: tf.Tensor, channels: int) -> Picture:
    """A picture from its pixels (height, width, channels), or from the bytes of a JPEG, PNG, BMP or GIF file.

    A JPEG is decoded where a box is cut out of it, and only there.
    """
    if data.dtype != tf.string:
        return Picture(tf.shape(data)[:2], lambda box: _slice(data, box))
    is_jpeg = tf.io.is_jpeg(data)
    other = tf.cond(
        is_jpeg,
        lambda: tf.zeros([0, 0, channels], tf.uint8),
        lambda: tf.io.decode_image(data, channels=channels, expand_animations=False),
    )
    other.set_shape([None, None, channels])
    sides = tf.cond(is_jpeg, lambda: tf.io.extract_jpeg_shape(data)[:2], lambda: tf.shape(other)[:2])

    def cut(box: tf.Tensor) -> tf.Tensor:
        return tf.cond(is_jpeg, lambda: _decoded(data, box, sides, channels), lambda: _slice(other, box))

    return Picture(sides, cut)


def _decoded(jpeg: tf.Tensor, box: tf.Tensor, sides: tf.Tensor, channels: int) -> tf.Tensor:
    """A box of a JPEG. Colours at the edge of what is decoded lack their neighbours: two more pixels are decoded."""
    first = tf.maximum(box[:2] - 2, 0)
    last = tf.minimum(box[:2] + box[2:] + 2, sides)
    around = tf.image.decode_and_crop_jpeg(jpeg, tf.concat([first, last - first], 0), channels=channels)
    return _slice(around, tf.concat([box[:2] - first, box[2:]], 0))


def _slice(pixels: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    return tf.slice(pixels, tf.concat([box[:2], [0]], 0), tf.concat([box[2:], [-1]], 0))


def check_sizes(experiment: Experiment) -> None:
    """Refuses a `data.resize` that leaves less than the network takes.

    Raises:
        BnnError: It does.
    """
    height, width, _ = experiment.input_shape
    resize = experiment.data.resize
    if resize and resize < max(height, width):
        raise BnnError(
            f"data.resize = {resize} is less than the network's {height} × {width} pixels, which are cut out of it; "
            f"expected {max(height, width)} or more"
        )


def enlarged(sides: tf.Tensor, experiment: Experiment) -> tf.Tensor:
    """Height and width after resizing, before the network's size is cut out.

    The shorter side becomes `data.resize`, by default 256 / 224 of the network's; both do without `data.keep_aspect`.

    Args:
        sides: Height and width, int32.
        experiment: Says data and network.
    """
    size = tf.constant(experiment.input_shape[:2], tf.float32)
    before = tf.cast(sides, tf.float32)
    resize = experiment.data.resize
    if not experiment.data.keep_aspect:
        after = tf.fill([2], float(resize)) if resize else size * MARGIN
    elif resize:
        after = before * (resize / tf.reduce_min(before))
    else:
        after = before * (tf.reduce_max(size / before) * MARGIN)
    return tf.cast(tf.round(after), tf.int32)


def part_of_resized(picture: Picture, experiment: Experiment, place: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """A part, of the network's size, of the picture as `enlarged` sizes it.

    Equal to resizing the whole (antialiased) and cutting then; but no pixel is decoded or computed that is not seen.

    Args:
        picture: The picture.
        experiment: Says data and network.
        place: From the room to move in (rows, columns; int32) to the part's top left corner.

    Returns:
        Pixels 0…255 as float32, (height, width, channels).
    """
    height, width, channels = experiment.input_shape
    kernel, reach = _KERNELS[experiment.data.interpolation]
    size = tf.constant([height, width])
    whole = enlarged(picture.sides, experiment)
    scale = tf.cast(whole, tf.float32) / tf.cast(picture.sides, tf.float32)
    corner = place(whole - size)
    # Where the part lies in the picture, and the pixels round it that its own at the edge are made of.
    margin = reach * tf.maximum(1 / scale, 1.0) + 1
    first = tf.floor(tf.cast(corner, tf.float32) / scale - margin)
    last = tf.math.ceil(tf.cast(corner + size, tf.float32) / scale + margin)
    first = tf.maximum(tf.cast(first, tf.int32), 0)
    last = tf.minimum(tf.cast(last, tf.int32), picture.sides)
    pixels = picture.cut(tf.concat([first, last - first], 0))
    moved = tf.cast(first, tf.float32) * scale - tf.cast(corner, tf.float32)
    resized = tf.raw_ops.ScaleAndTranslate(
        images=pixels[None], size=size, scale=scale, translation=moved, kernel_type=kernel, antialias=True
    )[0]
    return tf.ensure_shape(tf.clip_by_value(resized, 0.0, 255.0), [height, width, channels])


def resized_box(picture: Picture, experiment: Experiment, box: tf.Tensor) -> tf.Tensor:
    """A box (top, left, height, width) of the picture, resized to the network's size (antialiased).

    Returns:
        Pixels 0…255 as float32, (height, width, channels).
    """
    height, width, channels = experiment.input_shape
    method = experiment.data.interpolation
    resized = tf.image.resize(picture.cut(box), [height, width], method, antialias=True)
    return tf.ensure_shape(tf.clip_by_value(resized, 0.0, 255.0), [height, width, channels])


def fitted(picture: Picture, experiment: Experiment) -> tf.Tensor:
    """A picture in the size that the network takes, as it is evaluated.

    Where the dataset's own images differ in size, its middle is cut out of it as `enlarged` sizes it; else the
    picture is resized as a whole.

    Returns:
        Pixels 0…255 as uint8.
    """
    if experiment.data.row.input_shape[0] is None:
        image = part_of_resized(picture, experiment, lambda room: room // 2)
    else:
        image = resized_box(picture, experiment, tf.concat([[0, 0], picture.sides], 0))
    return tf.cast(tf.round(image), tf.uint8)


def fit(image: tf.Tensor, experiment: Experiment) -> tf.Tensor:
    """Pixels of any size, in the size that the network takes; those that have it stay as they are.

    Args:
        image: Pixels 0…255, (height, width, channels), uint8.
        experiment: Says the dataset, whose images may differ in size, and the network.

    Returns:
        Pixels 0…255 as uint8.

    Raises:
        BnnError: `data.resize` is less than the network's size.
    """
    check_sizes(experiment)
    height, width, channels = experiment.input_shape
    if image.shape[:2] == (height, width):
        return image
    return fitted(picture_of(image, channels), experiment)
