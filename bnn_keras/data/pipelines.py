"""From a prepared data set to batches.

Order is a pure function of (seed, epoch), augmentation one of (seed, epoch, example).
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
import tensorflow_datasets as tfds

from bnn_keras.data.datasets import Images
from bnn_keras.experiment import Experiment

EVALUATION_BATCH = 128


def normalise(experiment: Experiment) -> Callable[[tf.Tensor], tf.Tensor]:
    """Pixels 0…255 (batch, height, width, channels) to what the network takes: (x / 255 − mean) / std as float32."""
    mean = tf.constant(experiment.data.mean, tf.float32)
    std = tf.constant(experiment.data.std, tf.float32)
    return lambda images: (tf.cast(images, tf.float32) / 255 - mean) / std


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


def _decoded(images: Images, split: str) -> tf.data.Dataset:
    """(image, label) pairs in TFDS's own order, decoded once and then held in memory."""
    config = tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1)
    return images.builder.as_dataset(split, as_supervised=True, shuffle_files=False, read_config=config).cache()


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
    pairs = _decoded(images, images.row.train)
    examples = images.examples(images.row.train)

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        tf.random.set_seed(1)  # of this function's graph alone: `shuffle` mixes in the global seed otherwise
        place = tf.stack([tf.constant(experiment.seed, tf.int64), epoch])
        seed = tf.random.stateless_uniform([], place, minval=None, maxval=None, dtype=tf.int64)
        order = pairs.enumerate().shuffle(examples, seed=seed, reshuffle_each_iteration=False)

        def augmented(index: tf.Tensor, pair: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            image, label = pair
            return augment(image, experiment, tf.random.experimental.stateless_fold_in(place, index)), label

        return _batches(order.map(augmented, tf.data.AUTOTUNE), batch_size, experiment)

    return tf.data.Dataset.range(first_epoch, epochs).flat_map(one_epoch).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(images: Images, experiment: Experiment, batch_size: int = EVALUATION_BATCH) -> tf.data.Dataset:
    """Batches of the test split, every image once, in TFDS's own order."""
    return _batches(_decoded(images, images.row.test), batch_size, experiment).prefetch(tf.data.AUTOTUNE)
