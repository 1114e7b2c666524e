"""Compare the input pipeline with a plain `tf.data` map: `python benchmarks/input_pipeline.py`.

The plain pipeline decodes whole JPEGs (`tf.io.decode_jpeg`), resizes them (`tf.image.resize`, not antialiased) and
normalises them. Ours preprocesses and augments as an experiment configures it. Both are measured alternately in one
process, with the same images, batches and threads. The ratio is the median over the rounds. No network is trained.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

import bnn_keras  # noqa: F401  (import before TensorFlow: selects Keras 2)
from bnn_keras.data import Dataset, evaluation_batches, normalise, open_data, training_batches
from bnn_keras.experiment import Experiment, resolve
from bnn_keras.experiment.schema import AugmentationConfig

BATCH = 64
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}

# Row of the table → network and augmentation (None: evaluation).
CASES: dict[str, tuple[str, dict[str, Any] | None]] = {
    "32 × 32, padding and flip": ("resnet20", {"pad": 4, "flip": True}),
    "500 × 375, evaluation": ("resnet18", None),
    "500 × 375, random crop": ("resnet18", {"crop": "random", "flip": True}),
    "500 × 375, random area": ("resnet18", {"crop": "random_area", "flip": True}),
    "500 × 375, random area, colours": ("resnet18", {"crop": "random_area", "flip": True, **JITTER, "lighting": 0.1}),
}


def make_experiment(network: str, augmentation: dict[str, Any] | None, examples: int) -> Experiment:
    """Return the network's experiment with generated images and the given augmentation."""
    experiment = resolve(network, dataset="fake", overrides=[f"data.examples={examples}"], batch_size=BATCH).experiment
    data = {"augmentation": AugmentationConfig(**augmentation) if augmentation else None, "resize": None}
    return experiment.model_copy(update={"data": experiment.data.model_copy(update=data)})


def ours(dataset: Dataset, experiment: Experiment) -> tf.data.Dataset:
    """Return training batches of many epochs, or repeated evaluation batches if there is no augmentation."""
    if experiment.data.augmentation is None:
        return evaluation_batches(dataset, experiment, BATCH).repeat()
    return training_batches(dataset, experiment, experiment.stages[0], 0, 1_000_000)


def plain(dataset: Dataset, experiment: Experiment) -> tf.data.Dataset:
    """Return batches of the same images as JPEGs: decoded, resized, normalised."""
    prepare = normalise(experiment)
    size = experiment.input_shape[:2]
    encode = (lambda image: image) if dataset.encoded else tf.io.encode_jpeg
    files = dataset.pairs(dataset.info.train).map(lambda image, label: (encode(image), label)).cache()

    def decode(data: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return prepare(tf.image.resize(tf.io.decode_jpeg(data, channels=3), size)), label

    return files.repeat().map(decode, tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)


def images_per_second(batches: tf.data.Dataset, number: int) -> float:
    """Measure images per second over `number` images. The first batches fill buffers and are not measured."""
    iterator = iter(batches)
    for _ in range(4):
        next(iterator)
    steps = max(1, number // BATCH)
    start = time.perf_counter()
    for _ in range(steps):
        next(iterator)
    return steps * BATCH / (time.perf_counter() - start)


def measure(name: str, rounds: int, number: int) -> dict[str, Any]:
    """Return a row of the table: medians over the rounds."""
    network, augmentation = CASES[name]
    experiment = make_experiment(network, augmentation, examples=4 * BATCH)
    dataset = open_data(experiment)
    number = number if dataset.encoded else 20 * number
    pipelines: tuple[Callable[..., tf.data.Dataset], ...] = (ours, plain)
    batches_of_pipelines = [pipeline(dataset, experiment) for pipeline in pipelines]
    for batches in batches_of_pipelines:
        images_per_second(batches, number // 4)
    rates = [[images_per_second(batches, number) for batches in batches_of_pipelines] for _ in range(rounds)]
    return {
        "images": name,
        "ours": statistics.median(ours_ for ours_, _ in rates),
        "plain": statistics.median(plain_ for _, plain_ in rates),
        "ratio": statistics.median(ours_ / plain_ for ours_, plain_ in rates),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each pipeline (5)")
    parser.add_argument(
        "--images", type=int, default=512, help="large images per measurement; small images: 20 times as many (512)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON only")
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
