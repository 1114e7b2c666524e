"""Orders of the images of an epoch, each a function of the epoch's seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

SHUFFLE_BUFFER = 8_192  # images, of a dataset that is not held in memory
SHARDS_AT_ONCE = 128  # shards that are read at once; more shuffle no better through this buffer (docs/data.md)

Order = Callable[[tf.Tensor], tf.data.Dataset]
"""A function from the seed of an epoch, int64 (2,), to (index, example) pairs of all examples."""


def shuffle(indexed: tf.data.Dataset, buffer_size: int, epoch_seed: tf.Tensor) -> tf.data.Dataset:
    """Shuffle a dataset through a buffer.

    The order also depends on TensorFlow's global seed, which callers set in the graph of the pipeline.

    Args:
        indexed: The dataset, always in the same order.
        buffer_size: Number of elements from which the next one is drawn; with all of them, every order is as likely.
        epoch_seed: The seed, int64 (2,).
    """
    seed = tf.random.stateless_uniform([], epoch_seed, minval=None, maxval=None, dtype=tf.int64)
    return indexed.shuffle(buffer_size, seed=seed, reshuffle_each_iteration=False)


def fixed_order(pairs: tf.data.Dataset) -> Order:
    """Return the order in which examples are read, the same in every epoch."""
    return lambda _: pairs.enumerate()


def buffered_order(pairs: tf.data.Dataset, buffer_size: int) -> Order:
    """Return the order of examples that are read in one fixed order, through a buffer."""
    return lambda epoch_seed: shuffle(pairs.enumerate(), buffer_size, epoch_seed)


def sharded_order(
    lengths: Sequence[int],
    read: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.data.Dataset],
    at_once: int = SHARDS_AT_ONCE,
    buffer_size: int = SHUFFLE_BUFFER,
) -> Order:
    """Return the order of examples in shards, which are read in random order, `at_once` together, through a buffer.

    Shards of equal length that start together stay side by side: the k-th examples of all of them would meet. So the
    first `at_once` shards are cut at a random position. They are read up to it first, and from it on at the end of the
    epoch, and shards start and end at different times in between.

    Args:
        lengths: Number of examples by shard.
        read: Returns (shard, start, number) → `number` examples of a shard from `start` on, in a fixed order.
        at_once: Number of shards that are read together, one example of each in turn.
        buffer_size: Number of examples in the buffer.

    Example:
        >>> import tensorflow as tf
        >>> from bnn_keras.data.shuffling import sharded_order
        >>> letters = tf.constant(["abc", "de", "fghi"])
        >>> def read(shard, start, number):
        ...     text = tf.strings.substr(letters[shard], tf.cast(start, tf.int32), tf.cast(number, tf.int32))
        ...     return tf.data.Dataset.from_tensor_slices(tf.strings.bytes_split(text))
        >>> order = sharded_order([3, 2, 4], read, at_once=2, buffer_size=3)
        >>> sorted((int(index), example.numpy().decode()) for index, example in order(tf.constant([1, 0], tf.int64)))
        [(0, 'a'), (1, 'b'), (2, 'c'), (3, 'd'), (4, 'e'), (5, 'f'), (6, 'g'), (7, 'h'), (8, 'i')]
    """
    sizes = tf.constant(lengths, tf.int64)
    first_indices = tf.constant(np.cumsum([0, *lengths[:-1]]), tf.int64)

    def read_indexed(shard: tf.Tensor, start: tf.Tensor, number: tf.Tensor) -> tf.data.Dataset:
        first = first_indices[shard] + start
        indices = tf.data.Dataset.range(first, first + number)
        return tf.data.Dataset.zip((indices, read(shard, start, number)))

    def order(epoch_seed: tf.Tensor) -> tf.data.Dataset:
        parts = tf.data.Dataset.from_tensor_slices(_parts(sizes, at_once, epoch_seed))
        examples = parts.interleave(
            read_indexed, cycle_length=at_once, block_length=1, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        return shuffle(examples, buffer_size, epoch_seed)

    return order


def _parts(sizes: tf.Tensor, at_once: int, epoch_seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the parts of shards in the order in which they are read, as (shard, start, number)."""
    order_seed, cut_seed = tf.unstack(tf.random.split(epoch_seed, 2))
    shards = tf.random.experimental.stateless_shuffle(tf.range(tf.size(sizes)), order_seed, alg="philox")
    opened, others = shards[:at_once], shards[at_once:]
    uniform = tf.random.stateless_uniform(tf.shape(opened), cut_seed, alg="philox", dtype=tf.float64)
    cuts = tf.cast(uniform * tf.cast(tf.gather(sizes, opened), tf.float64), tf.int64)
    whole = tf.gather(sizes, others)
    numbers = (cuts, whole, tf.gather(sizes, opened) - cuts)
    starts = (tf.zeros_like(cuts), tf.zeros_like(whole), cuts)
    return tf.concat((opened, others, opened), 0), tf.concat(starts, 0), tf.concat(numbers, 0)
