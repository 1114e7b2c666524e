"""How often do two images share a batch in two epochs? `python benchmarks/shuffling.py`.

Simulates shuffle orders of ImageNet's training images, 1,281,167 in 1,024 files, with their numbers only. Of the pairs
of images that share a batch in one epoch, the table lists the share that also do so in another epoch.
"""

from __future__ import annotations

import argparse

import numpy as np
import tensorflow as tf

import bnn_keras  # noqa: F401  (import before TensorFlow: selects Keras 2)
from bnn_keras.data.shuffling import SHARDS_AT_ONCE, SHUFFLE_BUFFER, Order, sharded_order, shuffle

EXAMPLES, FILES, BATCH = 1_281_167, 1_024, 256


def lengths_of(examples: int, files: int) -> list[int]:
    """Return the number of examples by file: equal, or larger by one."""
    return [examples // files + (file < examples % files) for file in range(files)]


def read_numbers(shard: tf.Tensor, start: tf.Tensor, number: tf.Tensor) -> tf.data.Dataset:
    """Return placeholders for the examples of a shard."""
    return tf.data.Dataset.range(start, start + number)


def fixed_order(lengths: list[int], files_at_once: int = 16, block: int = 16) -> Order:
    """Return the order of files that are read in one fixed order, as TFDS reads them, through the buffer."""
    sizes, firsts = (tf.constant(values, tf.int64) for values in (lengths, np.cumsum([0, *lengths[:-1]])))
    files = tf.data.Dataset.range(len(lengths)).interleave(
        lambda file: tf.data.Dataset.range(firsts[file], firsts[file] + sizes[file]),
        cycle_length=files_at_once,
        block_length=block,
    )
    return lambda seed: shuffle(tf.data.Dataset.zip((files, files)), SHUFFLE_BUFFER, seed)


def full_shuffle(examples: int) -> Order:
    """Return an order in which every permutation is as likely."""
    numbers = tf.data.Dataset.range(examples)
    return lambda seed: shuffle(tf.data.Dataset.zip((numbers, numbers)), examples, seed)


def batches_of(order: Order, epoch: int, examples: int, batch: int) -> np.ndarray:
    """Return the batch of each example in an epoch."""
    tf.random.set_seed(1)
    indices = order(tf.constant([1, epoch], tf.int64)).map(lambda index, _: index).batch(8_192)
    batches = np.empty(examples, np.int64)
    batches[np.concatenate(list(indices.as_numpy_iterator()))] = np.arange(examples) // batch
    return batches


def shared_again(order: Order, examples: int, batch: int) -> float:
    """Return the share of the pairs in a batch of epoch 0 that share a batch in epoch 1 too."""
    first, second = (batches_of(order, epoch, examples, batch) for epoch in (0, 1))
    _, both = np.unique(first * examples + second, return_counts=True)
    together = np.bincount(first)
    return float((both * (both - 1)).sum() / (together * (together - 1)).sum())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=EXAMPLES, help=f"images ({EXAMPLES:,})")
    parser.add_argument("--files", type=int, default=FILES, help=f"files ({FILES:,})")
    options = parser.parse_args()
    lengths = lengths_of(options.examples, options.files)
    numbers = sorted({16, 32, 64, 128, 256, SHARDS_AT_ONCE})
    orders = {
        "one fixed order of files, 16 at once (earlier)": fixed_order(lengths),
        **{f"files shuffled, {n} at once": sharded_order(lengths, read_numbers, n) for n in numbers},
        "full shuffle": full_shuffle(options.examples),
    }
    shares = {name: shared_again(order, options.examples, BATCH) for name, order in orders.items()}
    for name, share in shares.items():
        print(f"{name:54} {share:8.4%} {share / shares['full shuffle']:6.1f}", flush=True)


if __name__ == "__main__":
    main()
