"""What `data.augmentation` does to a training image: functions of the image and of the numbers drawn for it.

Every draw is a stateless function of a *place*, two int64 that stand for (seed, epoch, example). Pixels are 0…255
throughout: uint8 until something computes with colours, float32 from then on, where torchvision rounds to uint8 after
every step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

from bnn_keras.data.pictures import Picture, check_sizes, fitted, part_of_resized, resized_box
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment
from bnn_keras.experiment.schema import AugmentationConfig

TRIES = 10

# AlexNet's principal components of ImageNet's colours, as fb.resnet.torch has them (Krizhevsky et al. 2012).
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
_LUMA = (0.2989, 0.587, 0.114)  # torchvision's rgb_to_grayscale

# Each kind of draw has its own stream of the place's; moves by `pad` draw from the place itself.
_CROP, _AREA, _FLIP, _COLOUR, _ORDER, _LIGHT = range(1, 7)


def _stream(place: tf.Tensor, kind: int) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(place, kind)


def check_augmentation(experiment: Experiment) -> None:
    """Refuses what the images do not allow.

    Raises:
        BnnError: `pad` reflects more than there is, colours change where there are none, or `data.resize` is too small.
    """
    check_sizes(experiment)
    augmentation = experiment.data.augmentation or AugmentationConfig()
    height, width, channels = experiment.input_shape
    if augmentation.padding == "reflect" and augmentation.pad >= min(height, width):
        raise BnnError(
            f"data.augmentation.pad = {augmentation.pad} reflects more than images of {height} × {width} pixels have; "
            f"expected less than {min(height, width)}"
        )
    colours = [key for key in ("contrast", "saturation", "hue", "lighting") if getattr(augmentation, key)]
    if colours and channels != 3 and (channels != 1 or "lighting" in colours):
        raise BnnError(
            f"data.augmentation.{colours[-1]} needs images with 3 channels, those of {experiment.data.name!r} have "
            f"{channels}; leave it out"
        )


# --- the part of an image that is seen ---


def cropped(picture: Picture, experiment: Experiment, place: tf.Tensor) -> tf.Tensor:
    """A picture in the network's size, at a place drawn as `data.augmentation.crop` says; the middle without it.

    Returns:
        Pixels 0…255, float32 or uint8, (height, width, channels).
    """
    augmentation = experiment.data.augmentation
    crop = augmentation.crop if augmentation else None
    if crop == "random":
        return part_of_resized(picture, experiment, functools.partial(random_corner, place=_stream(place, _CROP)))
    if crop == "random_area":
        areas, aspects = drawn_areas(augmentation, _stream(place, _AREA))
        box = area_box(picture.sides, areas, aspects, augmentation.aspect, _stream(place, _CROP))
        return resized_box(picture, experiment, box)
    return fitted(picture, experiment)


def random_corner(room: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """A corner, rows and columns from 0 up to and with `room` (int32), each as likely as any other."""
    # Not the integer draw, which takes one bound for both.
    drawn = tf.random.stateless_uniform([2], place) * tf.cast(room + 1, tf.float32)
    return tf.minimum(tf.cast(drawn, tf.int32), room)


def drawn_areas(augmentation: AugmentationConfig, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Shares of the area, uniform in `area`, and width / height, uniform in the logarithm in `aspect`: one per try."""
    drawn = tf.random.stateless_uniform([2, TRIES], place)
    smallest, largest = augmentation.area
    narrow, wide = (tf.math.log(ratio) for ratio in augmentation.aspect)
    return smallest + drawn[0] * (largest - smallest), tf.exp(narrow + drawn[1] * (wide - narrow))


def area_box(
    sides: tf.Tensor, areas: tf.Tensor, aspects: tf.Tensor, bounds: list[float], place: tf.Tensor
) -> tf.Tensor:
    """The box (top, left, height, width) of torchvision's RandomResizedCrop.get_params.

    The first of the tries (area a, aspect r) that fits has width √(a·r·pixels) and height √(a/r·pixels), somewhere in
    the image. Where none fits it is the middle of the image, as large as the bounds of width / height allow.

    Args:
        sides: Height and width, int32.
        areas: Shares of the area, one per try.
        aspects: Width / height, one per try.
        bounds: The least and the greatest width / height.
        place: Draws where it lies.
    """
    height, width = tf.unstack(tf.cast(sides, tf.float32))
    target = areas * height * width
    boxes = tf.stack([tf.round(tf.sqrt(target / aspects)), tf.round(tf.sqrt(target * aspects))], 1)
    fits = tf.reduce_all((boxes > 0) & (boxes <= [height, width]), 1)
    fallback = tf.stack(
        [tf.minimum(height, tf.round(width / bounds[0])), tf.minimum(width, tf.round(height * bounds[1]))]
    )
    any_fits = tf.reduce_any(fits)
    size = tf.cast(tf.where(any_fits, boxes[tf.argmax(fits)], fallback), tf.int32)
    room = sides - size
    corner = tf.where(any_fits, random_corner(room, place), room // 2)
    return tf.concat([corner, size], 0)


# --- what happens to the pixels ---


def augment(image: tf.Tensor, experiment: Experiment, place: tf.Tensor) -> tf.Tensor:
    """An image of the network's size, moved, mirrored and recoloured as the experiment's augmentation says.

    Args:
        image: Pixels 0…255, (height, width, channels).
        experiment: Says what is done.
        place: Two int64 that stand for (seed, epoch, example): the same, the same outcome.
    """
    augmentation = experiment.data.augmentation
    if augmentation is None:
        return image
    if augmentation.pad:
        image = moved(image, augmentation.pad, augmentation.padding, place)
    if augmentation.flip:
        image = tf.image.stateless_random_flip_left_right(image, _stream(place, _FLIP))
    amounts = {name: amount for name in COLOURS if (amount := getattr(augmentation, name))}
    if amounts:
        factors = colour_factors(amounts, _stream(place, _COLOUR))
        order = tf.argsort(tf.random.stateless_uniform([len(amounts)], _stream(place, _ORDER)))
        image = recoloured(tf.cast(image, tf.float32), list(amounts), factors, order)
    if augmentation.lighting:
        alphas = tf.random.stateless_normal([3], _stream(place, _LIGHT), stddev=augmentation.lighting)
        image = lit(tf.cast(image, tf.float32), alphas)
    return image


def moved(image: tf.Tensor, pad: int, padding: str, place: tf.Tensor) -> tf.Tensor:
    """The image's own size, cut at random out of it with `pad` pixels more on each side, black or reflected."""
    mode = {"zero": "CONSTANT", "reflect": "REFLECT"}[padding]
    padded = tf.pad(image, [[pad, pad], [pad, pad], [0, 0]], mode)
    return tf.image.stateless_random_crop(padded, image.shape, place)


def _blend(image: tf.Tensor, other: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(factor * image + (1 - factor) * other, 0.0, 255.0)


def _grey(image: tf.Tensor) -> tf.Tensor:
    return image if image.shape[-1] == 1 else tf.tensordot(image, tf.constant(_LUMA)[:, None], 1)


def _hue(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    return image if image.shape[-1] == 1 else 255 * tf.image.adjust_hue(image / 255, factor)


# torchvision's functional.adjust_…, of float pixels 0…255: (image, factor) → image.
COLOURS: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "brightness": lambda image, factor: _blend(image, tf.zeros([]), factor),
    "contrast": lambda image, factor: _blend(image, _grey(tf.reduce_mean(image, [0, 1], keepdims=True)), factor),
    "saturation": lambda image, factor: _blend(image, _grey(image), factor),
    "hue": _hue,
}


def colour_factors(amounts: dict[str, float], place: tf.Tensor) -> tf.Tensor:
    """One factor per amount a: uniform in [max(0, 1 − a), 1 + a]; for hue in [−a, a], turns of the colour wheel."""
    bounds = [(-a, a) if name == "hue" else (max(0.0, 1 - a), 1 + a) for name, a in amounts.items()]
    low, high = tf.unstack(tf.constant(bounds, tf.float32), axis=1)
    return low + tf.random.stateless_uniform([len(amounts)], place) * (high - low)


def recoloured(image: tf.Tensor, names: list[str], factors: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """Torchvision's ColorJitter, given its draws.

    Args:
        image: Float pixels 0…255.
        names: Keys of `COLOURS`.
        factors: One for each of the names.
        order: Their numbers, in the order in which they are applied.
    """
    for turn in range(len(names)):
        branches = [
            functools.partial(COLOURS[name], image, factor)
            for name, factor in zip(names, tf.unstack(factors), strict=True)
        ]
        shape = image.shape
        image = tf.switch_case(order[turn], branches) if len(branches) > 1 else branches[0]()
        image = tf.ensure_shape(image, shape)
    return image


def lit(image: tf.Tensor, alphas: tf.Tensor) -> tf.Tensor:
    """AlexNet's colour noise, x / 255 + eigenvectors · (alphas · eigenvalues), of pixels 0…255; not clipped."""
    return image + 255 * tf.linalg.matvec(tf.constant(EIGENVECTORS), alphas * EIGENVALUES)
