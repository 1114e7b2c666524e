"""Augmentation of training images, as configured by `data.augmentation`.

Each transformation is a pure function of images and their random parameters. Shifts and flips are sampled for all
images of an epoch at once and applied to batches (`Moves`), since a call per image would take longer than they do,
unless crops or colours need one.
Parameters of crops and colours are sampled statelessly from a seed of two int64, which is derived from (seed, epoch,
index of the image). Pixels are 0…255 throughout: uint8 until a colour transformation converts them to float32.
torchvision rounds to uint8 after each step instead.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import tensorflow as tf

from bnn_keras.data.resizing import LazyImage, check_resize, crop_of_resized, resize_box, resize_for_evaluation
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment
from bnn_keras.experiment.schema import AugmentationConfig

MAX_TRIES = 10  # of the random boxes, as in torchvision's RandomResizedCrop and rethinking-bnn-optimization
MIN_COVERED = 0.1  # share of the image in a box of `crop = "distorted_box"`, as in rethinking-bnn-optimization

# Principal components of ImageNet's colours (Krizhevsky et al. 2012), with the values of fb.resnet.torch.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
_LUMA = (0.2989, 0.587, 0.114)  # torchvision's rgb_to_grayscale

# Each kind of parameter has its own seed, derived from the seed of the image, or of the epoch for `Moves`.
_CROP, _AREA, _MOVES, _COLOUR, _ORDER, _LIGHTING = range(1, 7)


def _derive_seed(seed: tf.Tensor, kind: int) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(seed, kind)


def check_augmentation(experiment: Experiment) -> None:
    """Verify that the augmentation can be applied to the experiment's images.

    Raises:
        BnnError: `pad` is not smaller than the image with reflected padding, a colour transformation does not support
            the number of channels, or `data.resize` is smaller than the network's size.
    """
    check_resize(experiment)
    augmentation = experiment.data.augmentation or AugmentationConfig()
    height, width, channels = experiment.input_shape
    if augmentation.padding == "reflect" and augmentation.pad >= min(height, width):
        raise BnnError(
            f"data.augmentation.pad = {augmentation.pad} is too large to reflect images of {height} × {width} pixels; "
            f"set it to less than {min(height, width)}"
        )
    colours = [key for key in ("contrast", "saturation", "hue", "lighting") if getattr(augmentation, key)]
    if colours and channels != 3 and (channels != 1 or "lighting" in colours):
        raise BnnError(
            f"data.augmentation.{colours[-1]} needs images with 3 channels, but images of {experiment.data.name!r} "
            f"have {channels}; remove it"
        )


# --- cropping ---


def crop_for_training(image: LazyImage, experiment: Experiment, seed: tf.Tensor) -> tf.Tensor:
    """Bring an image to the network's size with the random crop of `data.augmentation.crop`, or its centre without one.

    Args:
        image: The image.
        experiment: The experiment.
        seed: Two int64, derived from (seed, epoch, index of the image).

    Returns:
        Pixels 0…255, float32 or uint8, (height, width, channels).
    """
    augmentation = experiment.data.augmentation
    if augmentation is None or augmentation.crop is None:
        return resize_for_evaluation(image, experiment)
    corner_seed = _derive_seed(seed, _CROP)
    if augmentation.crop == "random":
        return crop_of_resized(image, experiment, functools.partial(random_corner, seed=corner_seed))
    if augmentation.crop == "distorted_box":
        channels = experiment.input_shape[-1]
        box = distorted_box(image.size, channels, augmentation, corner_seed)
        return tf.cond(
            tf.reduce_all(box[2:] == image.size),
            lambda: tf.cast(resize_for_evaluation(image, experiment), tf.float32),
            lambda: resize_box(image, experiment, box),
        )
    areas, aspects = sample_areas_and_aspects(augmentation, _derive_seed(seed, _AREA))
    return resize_box(image, experiment, random_area_box(image.size, areas, aspects, augmentation.aspect, corner_seed))


def random_corner_of_crop(max_corner: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Return the corner that `crop = "random"` takes with the seed of an image."""
    return random_corner(max_corner, _derive_seed(seed, _CROP))


def random_corner(max_corner: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Sample a corner (top, left) uniformly from (0, 0) to `max_corner` inclusive, int32."""
    # stateless_uniform draws integers with one bound for all elements only.
    corner = tf.random.stateless_uniform([2], seed) * tf.cast(max_corner + 1, tf.float32)
    return tf.minimum(tf.cast(corner, tf.int32), max_corner)


def distorted_box(size: tf.Tensor, channels: int, augmentation: AugmentationConfig, seed: tf.Tensor) -> tf.Tensor:
    """Return the box (top, left, height, width) of TensorFlow's sample_distorted_bounding_box for a whole image.

    The box covers `MIN_COVERED` of the image or more. If `MAX_TRIES` tries fail, it is the whole image, which the
    reference replaces by the crop of tests.

    Args:
        size: Height and width of the image, int32.
        channels: Number of channels of the image.
        augmentation: Sets `area` and `aspect`.
        seed: Two int64. Equal seeds give equal boxes.

    Source: rethinking-bnn-optimization, bnn_optimization/data/imagenet.py.
    """
    begin, box_size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.concat([size, [channels]], 0),
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed,
        min_object_covered=MIN_COVERED,
        aspect_ratio_range=augmentation.aspect,
        area_range=augmentation.area,
        max_attempts=MAX_TRIES,
    )
    return tf.concat([begin[:2], box_size[:2]], 0)


def sample_areas_and_aspects(augmentation: AugmentationConfig, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Sample relative areas and aspect ratios (width / height) of `MAX_TRIES` boxes.

    Areas are uniform in `area`, logarithms of aspect ratios are uniform between the logarithms of `aspect`.
    """
    uniform = tf.random.stateless_uniform([2, MAX_TRIES], seed)
    min_area, max_area = augmentation.area
    min_log_aspect, max_log_aspect = (tf.math.log(aspect) for aspect in augmentation.aspect)
    areas = min_area + uniform[0] * (max_area - min_area)
    return areas, tf.exp(min_log_aspect + uniform[1] * (max_log_aspect - min_log_aspect))


def random_area_box(
    size: tf.Tensor, areas: tf.Tensor, aspects: tf.Tensor, aspect_bounds: list[float], seed: tf.Tensor
) -> tf.Tensor:
    """Return the box (top, left, height, width) of torchvision's RandomResizedCrop.get_params.

    A try with area a and aspect ratio r has width √(a·r·pixels) and height √(a/r·pixels). The first try that fits into
    the image is used, at a random position. If none fits, the box is the centre of the image, as large as
    `aspect_bounds` allow.

    Args:
        size: Height and width of the image, int32.
        areas: Relative areas, one per try.
        aspects: Aspect ratios (width / height), one per try.
        aspect_bounds: Smallest and largest aspect ratio.
        seed: Two int64 from which the position is sampled.
    """
    height, width = tf.unstack(tf.cast(size, tf.float32))
    target = areas * height * width
    box_sizes = tf.stack([tf.round(tf.sqrt(target / aspects)), tf.round(tf.sqrt(target * aspects))], 1)
    fits = tf.reduce_all((box_sizes > 0) & (box_sizes <= [height, width]), 1)
    min_aspect, max_aspect = aspect_bounds
    fallback = tf.stack(
        [tf.minimum(height, tf.round(width / min_aspect)), tf.minimum(width, tf.round(height * max_aspect))]
    )
    any_fits = tf.reduce_any(fits)
    box_size = tf.cast(tf.where(any_fits, box_sizes[tf.argmax(fits)], fallback), tf.int32)
    max_corner = size - box_size
    corner = tf.where(any_fits, random_corner(max_corner, seed), max_corner // 2)
    return tf.concat([corner, box_size], 0)


# --- shifts and flips of batches ---


@dataclasses.dataclass(frozen=True)
class Moves:
    """Shifts by `pad` and flips of all images in an epoch.

    Attributes:
        augmentation: Sets `pad`, `padding` and `flip`.
        uniform: Three numbers in [0, 1) of each image, float32 (images, 3): row and column of the shift, and the flip.

    Example:
        >>> import tensorflow as tf
        >>> from bnn_keras.data.augmentation import Moves
        >>> from bnn_keras.experiment.schema import AugmentationConfig
        >>> moves = Moves.of_epoch(AugmentationConfig(flip=True), 4, tf.constant([1, 0], tf.int64))
        >>> indices = tf.constant([0, 1, 2, 3], tf.int64)
        >>> moves.apply(indices, tf.constant([[[[1], [2]]]] * 4))[:, 0, 0, 0].numpy().tolist()
        [2, 1, 1, 2]
    """

    augmentation: AugmentationConfig
    uniform: tf.Tensor

    @classmethod
    def of_epoch(cls, augmentation: AugmentationConfig, images: int, epoch_seed: tf.Tensor) -> Moves:
        """Sample the moves of an epoch.

        Args:
            augmentation: The augmentation.
            images: Number of images.
            epoch_seed: Two int64. Equal seeds give equal moves.
        """
        return cls(augmentation, tf.random.stateless_uniform([images, 3], _derive_seed(epoch_seed, _MOVES)))

    def mirrored(self, indices: tf.Tensor) -> tf.Tensor:
        """Return whether images are mirrored.

        Args:
            indices: Indices of the images, of any shape.
        """
        return tf.gather(self.uniform, indices)[..., 2] < (0.5 if self.augmentation.flip else 0.0)

    def apply(self, indices: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """Shift and mirror images.

        Args:
            indices: Index of each image, (batch,).
            images: (batch, height, width, channels).

        Returns:
            The images in their shape and type.
        """
        images = self._shift(indices, images)
        if not self.augmentation.flip:
            return images
        return tf.where(self.mirrored(indices)[:, None, None, None], tf.reverse(images, [2]), images)

    def apply_to_image(self, index: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        """Shift and mirror one image (height, width, channels) as `apply` does."""
        image = self._shift(index[None], image[None])[0]
        if not self.augmentation.flip:
            return image
        return tf.cond(self.mirrored(index), lambda: tf.reverse(image, [1]), lambda: image)

    def _shift(self, indices: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        pad = self.augmentation.pad
        if not pad:
            return images
        corners = tf.cast(tf.gather(self.uniform, indices)[:, :2] * (2 * pad + 1), tf.int32)
        return pad_and_crop(images, pad, self.augmentation.padding, corners)


def pad_and_crop(images: tf.Tensor, pad: int, padding: str, corners: tf.Tensor) -> tf.Tensor:
    """Pad each side by `pad` pixels ("zero" or "reflect") and crop the original size.

    Args:
        images: (batch, height, width, channels).
        pad: Number of pixels.
        padding: "zero" or "reflect".
        corners: Top and left of the crop of each image, from 0 to 2 · pad, int32 (batch, 2).
    """
    mode = {"zero": "CONSTANT", "reflect": "REFLECT"}[padding]
    padded = tf.pad(images, [[0, 0], [pad, pad], [pad, pad], [0, 0]], mode)
    rows, columns = (tf.range(images.shape[axis + 1]) + corners[:, axis, None] for axis in range(2))
    return tf.gather(tf.gather(padded, rows, batch_dims=1, axis=1), columns, batch_dims=1, axis=2)


# --- colours ---


def colour_amounts(augmentation: AugmentationConfig) -> dict[str, float]:
    """Return the amounts of the colour changes that are not 0, by name."""
    amounts = {name: getattr(augmentation, name) for name in COLOUR_CHANGES}
    return {name: amount for name, amount in amounts.items() if amount}


def change_colours(image: tf.Tensor, augmentation: AugmentationConfig, seed: tf.Tensor) -> tf.Tensor:
    """Apply colour jitter and lighting of `data.augmentation` to an image.

    Args:
        image: Pixels 0…255, (height, width, channels).
        augmentation: The augmentation.
        seed: Two int64, derived from (seed, epoch, index of the image). Equal seeds give equal results.

    Returns:
        Pixels 0…255, float32 (height, width, channels).
    """
    image, amounts = tf.cast(image, tf.float32), colour_amounts(augmentation)
    if amounts:
        factors = sample_colour_factors(amounts, _derive_seed(seed, _COLOUR))
        order = tf.argsort(tf.random.stateless_uniform([len(amounts)], _derive_seed(seed, _ORDER)))
        image = jitter_colours(image, list(amounts), factors, order)
    if augmentation.lighting:
        alphas = tf.random.stateless_normal([3], _derive_seed(seed, _LIGHTING), stddev=augmentation.lighting)
        image = add_lighting(image, alphas)
    return image


def _blend(image: tf.Tensor, other: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(factor * image + (1 - factor) * other, 0.0, 255.0)


def _grey(image: tf.Tensor) -> tf.Tensor:
    return image if image.shape[-1] == 1 else tf.tensordot(image, tf.constant(_LUMA)[:, None], 1)


def _shift_hue(image: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    return image if image.shape[-1] == 1 else 255 * tf.image.adjust_hue(image / 255, shift)


# torchvision's functional.adjust_* on float pixels 0…255: (image, factor) → image.
COLOUR_CHANGES: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "brightness": lambda image, factor: _blend(image, tf.zeros([]), factor),
    "contrast": lambda image, factor: _blend(image, _grey(tf.reduce_mean(image, [0, 1], keepdims=True)), factor),
    "saturation": lambda image, factor: _blend(image, _grey(image), factor),
    "hue": _shift_hue,
}


def sample_colour_factors(amounts: dict[str, float], seed: tf.Tensor) -> tf.Tensor:
    """Sample one factor per amount a, uniform in [max(0, 1 − a), 1 + a]; for hue in [−a, a], a shift in full turns."""
    bounds = [(-a, a) if name == "hue" else (max(0.0, 1 - a), 1 + a) for name, a in amounts.items()]
    low, high = tf.unstack(tf.constant(bounds, tf.float32), axis=1)
    return low + tf.random.stateless_uniform([len(amounts)], seed) * (high - low)


def jitter_colours(image: tf.Tensor, names: list[str], factors: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """Apply torchvision's ColorJitter with given factors and order.

    Args:
        image: Float pixels 0…255.
        names: Keys of `COLOUR_CHANGES`.
        factors: One per name.
        order: Permutation of the indices of `names`; the order in which the changes are applied.
    """
    shape = image.shape
    for step in range(len(names)):
        branches = [
            functools.partial(COLOUR_CHANGES[name], image, factor)
            for name, factor in zip(names, tf.unstack(factors), strict=True)
        ]
        image = tf.switch_case(order[step], branches) if len(branches) > 1 else branches[0]()
        image = tf.ensure_shape(image, shape)
    return image


def add_lighting(image: tf.Tensor, alphas: tf.Tensor) -> tf.Tensor:
    """Add AlexNet's colour noise, 255 · eigenvectors · (alphas · eigenvalues), to pixels 0…255, without clipping."""
    return image + 255 * tf.linalg.matvec(tf.constant(EIGENVECTORS), alphas * EIGENVALUES)
