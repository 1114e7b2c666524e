"""Input pipelines: batches for training and evaluation from a dataset.

The shuffle order is a pure function of (seed, epoch), augmentation one of (seed, epoch, index of the image).
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from bnn_keras.data.augmentation import (
    Moves,
    change_colours,
    check_augmentation,
    colour_amounts,
    crop_for_training,
)
from bnn_keras.data.datasets import Dataset
from bnn_keras.data.mean_image import central_mean, move_mean
from bnn_keras.data.resizing import lazy_image, resize_for_evaluation
from bnn_keras.data.shuffling import fixed_order
from bnn_keras.data.whitening import Whitening
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment, Stage
from bnn_keras.experiment.schema import AugmentationConfig

EVALUATION_BATCH = 128

Pair = tuple[tf.Tensor, tf.Tensor]


def normalise(experiment: Experiment) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function that maps pixels 0…255 to the network's inputs: (x / 255 − mean) / std, as float32.

    With `data.channels = "bgr"`, the channels are reversed first. With `data.mean_image`, x is the image less the
    centre of the mean image. With `data.whiten`, x is the whitened image.

    Example:
        >>> import bnn_keras
        >>> import tensorflow as tf
        >>> from bnn_keras.data import normalise
        >>> inputs = normalise(bnn_keras.resolve("lenet5").experiment)(tf.fill([1, 28, 28, 1], 255))
        >>> print(f"{inputs[0, 0, 0, 0]:.3f}")  # (1 − 0.1307) / 0.3081
        2.821
    """
    mean = tf.constant(experiment.data.mean, tf.float32)
    std = tf.constant(experiment.data.std, tf.float32)
    if experiment.data.whiten:
        whitened = Whitening.of_arrays(experiment.arrays).layer
        return lambda images: (_in_order(experiment, whitened(images)) / 255 - mean) / std
    central = central_mean(experiment)
    if central is None:
        return lambda images: (tf.cast(_in_order(experiment, images), tf.float32) / 255 - mean) / std
    return lambda images: ((tf.cast(_in_order(experiment, images), tf.float32) - central) / 255 - mean) / std


def denormalise(experiment: Experiment) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return the inverse of `normalise`, except for whitening: 255 · (x · std + mean), as float32, in RGB."""
    mean = tf.constant(experiment.data.mean, tf.float32)
    std = tf.constant(experiment.data.std, tf.float32)
    central = central_mean(experiment)
    added = 0.0 if central is None else central
    return lambda images: _in_order(experiment, 255 * (images * std + mean) + added)


def _in_order(experiment: Experiment, images: tf.Tensor) -> tf.Tensor:
    """Convert images between RGB and the order of `data.channels`. It is its own inverse."""
    return images[..., ::-1] if experiment.data.channels == "bgr" else images


def steps_per_epoch(dataset: Dataset, stage: Stage, replicas: int = 1, static: bool = False) -> int:
    """Return the number of steps of a training epoch.

    Args:
        dataset: The dataset.
        stage: Sets the batch size of all replicas together, and `drop_last`.
        replicas: Number of replicas that share each batch.
        static: Whether all batches must have the same size, as TPUs require.

    Raises:
        BnnError: The batch size is not a multiple of `replicas`, or the dataset has fewer images than one batch.

    Example:
        >>> import bnn_keras
        >>> from bnn_keras.data import open_data, steps_per_epoch
        >>> options = {"overrides": ["data.examples=70"], "batch_size": 32}
        >>> experiment = bnn_keras.resolve("lenet5", dataset="fake", **options).experiment
        >>> steps_per_epoch(open_data(experiment), experiment.stages[0])
        3
    """
    return -(-_examples_per_epoch(dataset, stage, replicas, static) // stage.batch_size)


def _examples_per_epoch(dataset: Dataset, stage: Stage, replicas: int, static: bool) -> int:
    """Return how many images an epoch trains on: all, or those of full batches."""
    if stage.batch_size % replicas:
        raise BnnError(
            f"a batch of {stage.batch_size} images cannot be divided among {replicas} replicas; "
            f"set --batch-size to a multiple of {replicas}"
        )
    examples = dataset.examples(dataset.info.train)
    remainder = examples % stage.batch_size
    used = examples - remainder if stage.drop_last or static or remainder % replicas else examples
    if not used:
        raise BnnError(
            f"{dataset.info.name!r} has {examples} training images, fewer than one batch of {stage.batch_size}; "
            f"set --batch-size to at most {examples}"
        )
    return used


def augmented_batches(
    dataset: Dataset,
    experiment: Experiment,
    epoch: tf.Tensor,
    indexed_pairs: tf.data.Dataset,
    batch_size: int,
    static: bool = False,
) -> tf.data.Dataset:
    """Return batches of images and labels as an epoch trains on them, before normalisation.

    Crops and colours take a call per image; without them, shifts and flips take one per batch.

    Args:
        dataset: The dataset.
        experiment: Sets seed and augmentation.
        epoch: The epoch, int64.
        indexed_pairs: (index, (image, label)) of `dataset.pairs`, in any order.
        batch_size: Number of images.
        static: Whether to drop a smaller last batch.
    """
    augmentation = experiment.data.augmentation or AugmentationConfig()
    epoch_seed = tf.stack([tf.constant(experiment.seed, tf.int64), epoch])
    moves = Moves.of_epoch(augmentation, dataset.examples(dataset.info.train), epoch_seed)
    channels = experiment.input_shape[-1]

    def seed_of(index: tf.Tensor) -> tf.Tensor:
        return tf.random.experimental.stateless_fold_in(epoch_seed, index)

    def augment_image(index: tf.Tensor, pair: Pair) -> Pair:
        image, label = pair
        if crops:
            image = crop_for_training(lazy_image(image, channels), experiment, seed_of(index))
            image = move_mean(image, experiment, seed_of(index), moves.mirrored(index))
        image = moves.apply_to_image(index, image)
        return (change_colours(image, augmentation, seed_of(index)) if colours else image), label

    def augment_batch(indices: tf.Tensor, pairs: Pair) -> Pair:
        images, labels = pairs
        return moves.apply(indices, images), labels

    crops = dataset.encoded or augmentation.crop
    colours = augmentation.lighting or colour_amounts(augmentation)
    if crops or colours:
        return indexed_pairs.map(augment_image, tf.data.AUTOTUNE).batch(batch_size, static)
    return indexed_pairs.batch(batch_size, static).map(augment_batch, tf.data.AUTOTUNE)


def _normalised(batches: tf.data.Dataset, experiment: Experiment) -> tf.data.Dataset:
    prepare = normalise(experiment)
    return batches.map(lambda images, labels: (prepare(images), labels), tf.data.AUTOTUNE)


def _split_among(replicas: int) -> Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset]:
    """Return a function that splits a batch into `replicas` batches of equal size."""

    def split_batch(batch: tf.Tensor) -> tf.Tensor:
        return tf.reshape(batch, tf.concat([[replicas, tf.shape(batch)[0] // replicas], tf.shape(batch)[1:]], 0))

    def split_pair(images: tf.Tensor, labels: tf.Tensor) -> tf.data.Dataset:
        shape = [None, *images.shape[1:]]
        parts = tf.data.Dataset.from_tensor_slices((split_batch(images), split_batch(labels)))
        return parts.map(lambda images, labels: (tf.ensure_shape(images, shape), labels))

    return split_pair


def training_batches(
    dataset: Dataset,
    experiment: Experiment,
    stage: Stage,
    first_epoch: int,
    epochs: int,
    context: tf.distribute.InputContext | None = None,
    static: bool = False,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Return augmented, normalised batches of the epochs `first_epoch` … `epochs` − 1, in sequence.

    Each epoch contains every training image once, in a shuffle order that depends on (seed, epoch) only, or in the
    order of the dataset with `data.shuffle = false`. A resumed
    training therefore sees the same batches as an uninterrupted one. Each input pipeline reads its own shard of this
    order: pipeline i of N reads the positions p with p mod N = i. A step sees the same images for any number of
    pipelines.

    The last batch of an epoch may be smaller. It is dropped with `stage.drop_last`, or if the replicas cannot share it
    evenly.

    Args:
        dataset: The dataset.
        experiment: Sets seed, augmentation and normalisation.
        stage: Sets the batch size of all replicas together, and `drop_last`.
        first_epoch: First epoch, counted over all stages.
        epochs: Epoch after the last, counted over all stages.
        context: Index and number of this input pipeline, and number of replicas; by default the only pipeline of one
            replica.
        static: Whether all batches must have the same, statically known size, as TPUs require. Drops a smaller last
            batch.
        first_step: Number of steps of the first epoch to leave out. Their images are not decoded.

    Returns:
        (images, labels) batches for one replica each: float32 (batch, height, width, channels), int64 (batch,).

    Raises:
        BnnError: As `steps_per_epoch` and `check_augmentation`.

    Example:
        >>> import bnn_keras
        >>> from bnn_keras.data import open_data, training_batches
        >>> options = {"overrides": ["data.examples=70"], "batch_size": 32}
        >>> experiment = bnn_keras.resolve("lenet5", dataset="fake", **options).experiment
        >>> batches = training_batches(open_data(experiment), experiment, experiment.stages[0], 0, 1)
        >>> [images.shape[0] for images, labels in batches]
        [32, 32, 6]
    """
    check_augmentation(experiment)
    context = context or tf.distribute.InputContext()
    replicas, pipelines = context.num_replicas_in_sync, context.num_input_pipelines
    used = _examples_per_epoch(dataset, stage, replicas, static)
    split = dataset.info.train
    order = dataset.order(split) if experiment.data.shuffle else fixed_order(dataset.pairs(split))
    # A smaller last batch is split among this pipeline's replicas after batching. Batching it with the size of one
    # replica's full batch would give most of it to one replica.
    last_is_smaller = used % stage.batch_size > 0
    local_replicas = replicas // pipelines if last_is_smaller and replicas // pipelines > 1 else 1
    batch_size = stage.batch_size * local_replicas // replicas

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        tf.random.set_seed(1)  # in this function's graph only; `shuffle` combines the global seed with its own
        epoch_seed = tf.stack([tf.constant(experiment.seed, tf.int64), epoch])
        shard = order(epoch_seed).take(used).shard(pipelines, context.input_pipeline_id)
        if first_step:
            skipped = tf.constant(first_step * stage.batch_size // pipelines, tf.int64)
            shard = shard.skip(tf.where(epoch == first_epoch, skipped, 0))
        batches = _normalised(augmented_batches(dataset, experiment, epoch, shard, batch_size, static), experiment)
        return batches.flat_map(_split_among(local_replicas)) if local_replicas > 1 else batches

    return tf.data.Dataset.range(first_epoch, epochs).flat_map(epoch_batches).prefetch(tf.data.AUTOTUNE)


def evaluation_steps(
    dataset: Dataset, replicas: int = 1, pipelines: int = 1, batch_size: int = EVALUATION_BATCH
) -> int:
    """Return the number of steps in which all replicas together see every test image once.

    This is the number of steps of the pipeline with the largest shard.

    Example:
        >>> import bnn_keras
        >>> from bnn_keras.data import evaluation_steps, open_data
        >>> experiment = bnn_keras.resolve("lenet5", dataset="fake", overrides=["data.examples=300"]).experiment
        >>> evaluation_steps(open_data(experiment), batch_size=100)
        3
    """
    largest_shard = -(-dataset.examples(dataset.info.test) // pipelines)
    return -(-largest_shard // (batch_size * (replicas // pipelines)))


def evaluation_batches(
    dataset: Dataset,
    experiment: Experiment,
    batch_size: int = EVALUATION_BATCH,
    context: tf.distribute.InputContext | None = None,
    split: str | None = None,
) -> tf.data.Dataset:
    """Return normalised batches of the test split, or of another one, in a fixed order and without augmentation.

    Args:
        dataset: The dataset.
        experiment: Sets image size and normalisation.
        batch_size: Batch size of one replica.
        context: Index and number of this input pipeline; all pipelines together yield every image once.
        split: The split; that of the test images if None.

    Returns:
        (images, labels) batches: float32 (batch, height, width, channels), int64 (batch,).

    Raises:
        BnnError: As `check_augmentation`.

    Example:
        >>> import bnn_keras
        >>> from bnn_keras.data import evaluation_batches, open_data
        >>> experiment = bnn_keras.resolve("lenet5", dataset="fake", overrides=["data.examples=6"]).experiment
        >>> [tuple(images.shape) for images, labels in evaluation_batches(open_data(experiment), experiment, 4)]
        [(4, 28, 28, 1), (2, 28, 28, 1)]
    """
    check_augmentation(experiment)
    context = context or tf.distribute.InputContext()
    pairs = dataset.pairs(split or dataset.info.test).shard(context.num_input_pipelines, context.input_pipeline_id)
    channels = experiment.input_shape[-1]
    if dataset.encoded:
        pairs = pairs.map(
            lambda data, label: (resize_for_evaluation(lazy_image(data, channels), experiment), label),
            tf.data.AUTOTUNE,
        )
    return _normalised(pairs.batch(batch_size), experiment).prefetch(tf.data.AUTOTUNE)
