"""From a prepared data set to batches.

Order is a pure function of (seed, epoch), augmentation one of (seed, epoch, example).
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
import tensorflow_datasets as tfds

from bnn_keras import catalog
from bnn_keras.data.datasets import Images
from bnn_keras.experiment import Experiment

EVALUATION_BATCH = 128
MARGIN = 256 / 224  # of the shorter side round the part that is cut out
SHUFFLED = 8_192  # encoded images held for shuffling, of a data set too large for memory


def normalise(experiment: Experiment) -> Callable[[tf.Tensor], tf.Tensor]:
    """Pixels 0…255 (batch, height, width, channels) to what the network takes: (x / 255 − mean) / std as float32."""
    mean = tf.constant(experiment.data.mean, tf.float32)
    std = tf.constant(experiment.data.std, tf.float32)
    return lambda images: (tf.cast(images, tf.float32) / 255 - mean) / std


def fit(image: tf.Tensor, experiment: Experiment) -> tf.Tensor:
    """An image of any size, in the size that the network takes.

    Where the data set's own images differ in size, the shorter side becomes 256 / 224 of the network's, and its middle
    is cut out; else the image is resized as a whole.

    Args:
        image: Pixels 0…255, (height, width, channels).
        experiment: Says the data set and the network.

    Returns:
        Pixels 0…255 as uint8.
    """
    height, width, _ = experiment.input_shape
    if image.shape[:2] == (height, width):
        return image
    size = tf.constant([height, width])
    if catalog.DATASETS[experiment.data.name].input_shape[0] is None:
        sides = tf.cast(tf.shape(image)[:2], tf.float32)
        scale = tf.reduce_max(tf.cast(size, tf.float32) / sides) * MARGIN
        enlarged = tf.cast(tf.round(sides * scale), tf.int32)
        image = tf.image.resize(image, enlarged, antialias=True)
        top, left = tf.unstack((enlarged - size) // 2)
        image = tf.image.crop_to_bounding_box(image, top, left, height, width)
    else:
        image = tf.image.resize(image, size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)


def augment(image: tf.Tensor, experiment: Experiment, place: tf.Tensor) -> tf.Tensor:
    """An image (height, width, channels) as the experiment's augmentation turns it.

    Args:
        image: Pixels 0…255.
        experiment: Says what is done.
        place: Two int64 that stand for (seed, epoch, example): the same, the same outcome.
    """
    augmentation = experiment.data.augmentation
    if augmentation is None:
        return image
    margin = [[augmentation.pad, augmentation.pad]] * 2
    return tf.image.stateless_random_crop(tf.pad(image, [*margin, [0, 0]]), image.shape, place)


def _pairs(images: Images, split: str) -> tf.data.Dataset:
    """(image, label) pairs in TFDS's own order: decoded once and held in memory, or still encoded where too large."""
    config = tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1)
    arguments = {"as_supervised": True, "shuffle_files": False, "read_config": config}
    if images.encoded:
        return images.builder.as_dataset(split, decoders={"image": tfds.decode.SkipDecoding()}, **arguments)
    return images.builder.as_dataset(split, **arguments).cache()


def _prepared(images: Images, experiment: Experiment) -> Callable[[tf.Tensor], tf.Tensor]:
    """From what `_pairs` gives to an image of the network's size."""
    if not images.encoded:
        return lambda image: image
    channels = images.row.input_shape[-1]

    def decode(data: tf.Tensor) -> tf.Tensor:
        image = fit(tf.io.decode_image(data, channels=channels, expand_animations=False), experiment)
        return tf.ensure_shape(image, experiment.input_shape)

    return decode


def _batches(pairs: tf.data.Dataset, batch_size: int, experiment: Experiment) -> tf.data.Dataset:
    prepare = normalise(experiment)
    return pairs.batch(batch_size).map(lambda images, labels: (prepare(images), labels), tf.data.AUTOTUNE)


def training_batches(
    images: Images, experiment: Experiment, batch_size: int, first_epoch: int, epochs: int
) -> tf.data.Dataset:
    """Augmented batches of the epochs `first_epoch` … `epochs` − 1, one epoch after the other.

    Each epoch has every training image once, in an order that depends on (seed, epoch) alone: a training that is
    resumed sees what one that was never interrupted sees. The last batch of an epoch may be smaller.
    """
    pairs = _pairs(images, images.row.train)
    prepare = _prepared(images, experiment)
    held = SHUFFLED if images.encoded else images.examples(images.row.train)

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        tf.random.set_seed(1)  # of this function's graph alone: `shuffle` mixes in the global seed otherwise
        place = tf.stack([tf.constant(experiment.seed, tf.int64), epoch])
        seed = tf.random.stateless_uniform([], place, minval=None, maxval=None, dtype=tf.int64)
        order = pairs.enumerate().shuffle(held, seed=seed, reshuffle_each_iteration=False)

        def augmented(index: tf.Tensor, pair: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            image, label = pair
            place_of_image = tf.random.experimental.stateless_fold_in(place, index)
            return augment(prepare(image), experiment, place_of_image), label

        return _batches(order.map(augmented, tf.data.AUTOTUNE), batch_size, experiment)

    return tf.data.Dataset.range(first_epoch, epochs).flat_map(one_epoch).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(images: Images, experiment: Experiment, batch_size: int = EVALUATION_BATCH) -> tf.data.Dataset:
    """Batches of the test split, every image once, in TFDS's own order."""
    prepare = _prepared(images, experiment)
    pairs = _pairs(images, images.row.test).map(lambda image, label: (prepare(image), label), tf.data.AUTOTUNE)
    return _batches(pairs, batch_size, experiment).prefetch(tf.data.AUTOTUNE)
