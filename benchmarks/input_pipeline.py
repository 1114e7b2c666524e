"""Images per second of the input pipeline, beside a plain `tf.data` map: `python benchmarks/input_pipeline.py`.

The plain one decodes whole JPEGs (`tf.io.decode_jpeg`), resizes them (`tf.image.resize`, not antialiased) and
normalises them; ours does what an experiment says. Both take turns in one process, with the same images, batches and
threads; the ratio is the median over the rounds. No network trains beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

import bnn_keras  # noqa: F401  (before TensorFlow: it chooses Keras 2)
from bnn_keras.data import Dataset, evaluation_batches, normalise, open_data, training_batches
from bnn_keras.experiment import Experiment, resolve
from bnn_keras.experiment.schema import AugmentationConfig

BATCH = 64
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}

# Network, augmentation (None: evaluation), by the name of the row.
CASES: dict[str, tuple[str, dict[str, Any] | None]] = {
    "32 × 32, moved and mirrored": ("resnet20", {"pad": 4, "flip": True}),
    "500 × 375, evaluation": ("resnet18", None),
    "500 × 375, random crop": ("resnet18", {"crop": "random", "flip": True}),
    "500 × 375, random area": ("resnet18", {"crop": "random_area", "flip": True}),
    "500 × 375, random area, colours": ("resnet18", {"crop": "random_area", "flip": True, **JITTER, "lighting": 0.1}),
}


def experiment_of(network: str, augmentation: dict[str, Any] | None, examples: int) -> Experiment:
    """The network's recipe with made-up images and another augmentation."""
    experiment = resolve(network, dataset="fake", overrides=[f"data.examples={examples}"], batch_size=BATCH).experiment
    changed = {"augmentation": AugmentationConfig(**augmentation) if augmentation else None, "resize": None}
    return experiment.model_copy(update={"data": experiment.data.model_copy(update=changed)})


def ours(images: Dataset, experiment: Experiment) -> tf.data.Dataset:
    """Batches of one epoch after the other; test images again and again without an augmentation."""
    if experiment.data.augmentation is None:
        return evaluation_batches(images, experiment, BATCH).repeat()
    return training_batches(images, experiment, experiment.stages[0], 0, 1_000_000)


def plain(images: Dataset, experiment: Experiment) -> tf.data.Dataset:
    """The same images as JPEGs: decoded, resized, normalised, batched."""
    prepare = normalise(experiment)
    size = experiment.input_shape[:2]
    encode = (lambda image: image) if images.encoded else tf.io.encode_jpeg
    files = images.pairs(images.info.train).map(lambda image, label: (encode(image), label)).cache()

    def decoded(data: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return prepare(tf.image.resize(tf.io.decode_jpeg(data, channels=3), size)), label

    return files.repeat().map(decoded, tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)


def rate(batches: tf.data.Dataset, number: int) -> float:
    """Images per second, over so many images after the first batches, which fill buffers and caches."""
    iterator = iter(batches)
    for _ in range(4):
        next(iterator)
    steps = max(1, number // BATCH)
    start = time.perf_counter()
    for _ in range(steps):
        next(iterator)
    return steps * BATCH / (time.perf_counter() - start)


def measure(name: str, rounds: int, number: int) -> dict[str, Any]:
    """A row of the table: medians over the rounds."""
    network, augmentation = CASES[name]
    experiment = experiment_of(network, augmentation, examples=4 * BATCH)
    images = open_data(experiment)
    number = number if images.encoded else 20 * number
    pipelines: tuple[Callable[..., tf.data.Dataset], ...] = (ours, plain)
    made = [pipeline(images, experiment) for pipeline in pipelines]
    for batches in made:
        rate(batches, number // 4)
    pairs = [[rate(batches, number) for batches in made] for _ in range(rounds)]
    return {
        "images": name,
        "ours": statistics.median(mine for mine, _ in pairs),
        "plain": statistics.median(other for _, other in pairs),
        "ratio": statistics.median(mine / other for mine, other in pairs),
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each pipeline (5)")
    parser.add_argument(
        "--images", type=int, default=512, help="large images per turn; 20 times as many small ones (512)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON value and nothing else")
    options = parser.parse_args()
    rows = [measure(name, options.rounds, options.images) for name in CASES]
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'':34} {'images/s':>10} {'plain':>10} {'ratio':>6}")
    for row in rows:
        print(f"{row['images']:34} {row['ours']:10,.0f} {row['plain']:10,.0f} {row['ratio']:6.2f}")


if __name__ == "__main__":
    main()
