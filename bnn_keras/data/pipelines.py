"""From a dataset to batches.

Order is a pure function of (seed, epoch), augmentation one of (seed, epoch, example).
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from bnn_keras.data.augmentation import augment, check_augmentation, cropped
from bnn_keras.data.datasets import Dataset
from bnn_keras.data.pictures import fitted, picture_of
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment, Stage

EVALUATION_BATCH = 128
SHUFFLED = 8_192  # encoded images held for shuffling, of a dataset too large for memory

Pair = tuple[tf.Tensor, tf.Tensor]


def normalise(experiment: Experiment) -> Callable[[tf.Tensor], tf.Tensor]:
    """Pixels 0…255 (batch, height, width, channels) to what the network takes: (x / 255 − mean) / std as float32."""
    mean = tf.constant(experiment.data.mean, tf.float32)
    std = tf.constant(experiment.data.std, tf.float32)
    return lambda images: (tf.cast(images, tf.float32) / 255 - mean) / std


def denormalise(experiment: Experiment) -> Callable[[tf.Tensor], tf.Tensor]:
    """What `normalise` gives back to pixels, as float32: 255 · (x · std + mean)."""
    mean = tf.constant(experiment.data.mean, tf.float32)
    std = tf.constant(experiment.data.std, tf.float32)
    return lambda images: 255 * (images * std + mean)


def steps_per_epoch(images: Dataset, stage: Stage, replicas: int = 1, static: bool = False) -> int:
    """Batches of a training epoch, over all input pipelines: those that `training_batches` gives.

    Raises:
        BnnError: The batch does not divide among the replicas, or there are fewer images than one batch has.
    """
    return -(-_images_used(images, stage, replicas, static) // stage.batch_size)


def _images_used(images: Dataset, stage: Stage, replicas: int, static: bool) -> int:
    """Images of an epoch that are trained on: all, or those of whole batches."""
    if stage.batch_size % replicas:
        raise BnnError(
            f"a batch of {stage.batch_size} images does not divide among {replicas} replicas; "
            f"set --batch-size to a multiple of {replicas}"
        )
    examples = images.examples(images.info.train)
    rest = examples % stage.batch_size
    used = examples - rest if stage.drop_last or static or rest % replicas else examples
    if not used:
        raise BnnError(
            f"{examples} training images of {images.info.name!r} do not make one batch of {stage.batch_size}; "
            f"set --batch-size to at most {examples}"
        )
    return used


def training_pairs(
    images: Dataset, experiment: Experiment, epoch: tf.Tensor, indexed: tf.data.Dataset
) -> tf.data.Dataset:
    """(image, label) as the network will see them in an epoch, before normalisation.

    Args:
        images: The dataset.
        experiment: Says seed and augmentation.
        epoch: Number of the epoch, int64.
        indexed: (number of the example, (image, label)) in any order, of `images.pairs`.
    """
    place = tf.stack([tf.constant(experiment.seed, tf.int64), epoch])
    channels = experiment.input_shape[-1]

    def augmented(index: tf.Tensor, pair: Pair) -> Pair:
        data, label = pair
        place_of_image = tf.random.experimental.stateless_fold_in(place, index)
        image = cropped(picture_of(data, channels), experiment, place_of_image) if cuts else data
        return augment(image, experiment, place_of_image), label

    cuts = images.encoded or (experiment.data.augmentation and experiment.data.augmentation.crop)
    return indexed.map(augmented, tf.data.AUTOTUNE)


def _batches(pairs: tf.data.Dataset, batch_size: int, experiment: Experiment, static: bool = False) -> tf.data.Dataset:
    prepare = normalise(experiment)
    return pairs.batch(batch_size, static).map(lambda images, labels: (prepare(images), labels), tf.data.AUTOTUNE)


def _for_replicas(replicas: int) -> Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset]:
    """Batches of several replicas to as many batches, of which none is smaller than the others."""

    def split(part: tf.Tensor) -> tf.Tensor:
        return tf.reshape(part, tf.concat([[replicas, tf.shape(part)[0] // replicas], tf.shape(part)[1:]], 0))

    def parts(images: tf.Tensor, labels: tf.Tensor) -> tf.data.Dataset:
        shape = [None, *images.shape[1:]]
        dataset = tf.data.Dataset.from_tensor_slices((split(images), split(labels)))
        return dataset.map(lambda some, their: (tf.ensure_shape(some, shape), their))

    return parts


def training_batches(
    images: Dataset,
    experiment: Experiment,
    stage: Stage,
    first_epoch: int,
    epochs: int,
    context: tf.distribute.InputContext | None = None,
    static: bool = False,
) -> tf.data.Dataset:
    """Augmented batches for one replica each, of the epochs `first_epoch` … `epochs` − 1, one after the other.

    Each epoch has every training image once, in an order that depends on (seed, epoch) alone: a training that is
    resumed sees what one that was never interrupted sees. Of N input pipelines the one numbered i has the images at the
    places p of that order with p % N == i, so that a step sees the same images whatever their number.

    The last batch of an epoch may be smaller. It is left out with `stage.drop_last`, or where the replicas cannot share
    it evenly.

    Args:
        images: The dataset.
        experiment: Says seed, augmentation, normalisation.
        stage: Says the batch size, of all replicas together.
        first_epoch: The first epoch, of those of all stages.
        epochs: The one after the last.
        context: Which input pipeline of how many this is, and for how many replicas in all; by default the only one.
        static: Give batches of one size, which the graph knows, and leave out a smaller one: for TPUs.

    Raises:
        BnnError: As `steps_per_epoch`; or the augmentation does not fit the images.
    """
    check_augmentation(experiment)
    context = context or tf.distribute.InputContext()
    replicas, pipelines = context.num_replicas_in_sync, context.num_input_pipelines
    used = _images_used(images, stage, replicas, static)
    pairs = images.pairs(images.info.train)
    held = SHUFFLED if images.encoded else images.examples(images.info.train)
    # A smaller batch is cut for the replicas of this pipeline after it is made: cut by number, one would get it all.
    share = used % stage.batch_size and replicas // pipelines > 1
    here = replicas // pipelines if share else 1
    batch_size = stage.batch_size * here // replicas

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        tf.random.set_seed(1)  # of this function's graph alone: `shuffle` mixes in the global seed otherwise
        place = tf.stack([tf.constant(experiment.seed, tf.int64), epoch])
        seed = tf.random.stateless_uniform([], place, minval=None, maxval=None, dtype=tf.int64)
        order = pairs.enumerate().shuffle(held, seed=seed, reshuffle_each_iteration=False).take(used)
        own = order.shard(pipelines, context.input_pipeline_id)
        batches = _batches(training_pairs(images, experiment, epoch, own), batch_size, experiment, static)
        return batches.flat_map(_for_replicas(here)) if here > 1 else batches

    return tf.data.Dataset.range(first_epoch, epochs).flat_map(one_epoch).prefetch(tf.data.AUTOTUNE)


def evaluation_steps(images: Dataset, replicas: int = 1, pipelines: int = 1, batch_size: int = EVALUATION_BATCH) -> int:
    """Steps in which all replicas together see every test image once: those of the pipeline with most of them."""
    own = -(-images.examples(images.info.test) // pipelines)
    return -(-own // (batch_size * (replicas // pipelines)))


def evaluation_batches(
    images: Dataset,
    experiment: Experiment,
    batch_size: int = EVALUATION_BATCH,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Batches of the test split, in an order that never changes.

    Args:
        images: The dataset.
        experiment: Says size and normalisation.
        batch_size: Images of a batch, for one replica.
        context: Which input pipeline of how many this is; all together have every image once.

    Raises:
        BnnError: `data.resize` is less than the network's size.
    """
    check_augmentation(experiment)
    context = context or tf.distribute.InputContext()
    pairs = images.pairs(images.info.test).shard(context.num_input_pipelines, context.input_pipeline_id)
    channels = experiment.input_shape[-1]
    if images.encoded:
        pairs = pairs.map(lambda data, label: (fitted(picture_of(data, channels), experiment), label), tf.data.AUTOTUNE)
    return _batches(pairs, batch_size, experiment).prefetch(tf.data.AUTOTUNE)
