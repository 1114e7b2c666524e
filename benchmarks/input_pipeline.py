"""Compare the input pipeline with a plain `tf.data` map and with PyTorch's: `python benchmarks/input_pipeline.py`.

The plain pipeline decodes whole JPEGs (`tf.io.decode_jpeg`), resizes them (`tf.image.resize`, not antialiased) and
normalises them. Ours preprocesses and augments as an experiment configures it. PyTorch's does the same steps with
torchvision's transforms, or with Pillow if torchvision is not installed, in as many worker processes as cores
(`torch_pipeline.py`). All are measured alternately, with the same images and batches. Ratios are medians over the
rounds. No network is trained.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
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


def torch_rate(dataset: Dataset, experiment: Experiment) -> Callable[[int], float]:
    """Return a function that measures images per second of PyTorch's pipeline, with the same images."""
    images = [image for image, _ in dataset.pairs(dataset.info.train).as_numpy_iterator()]
    augmentation = experiment.data.augmentation
    options = augmentation and {key: value for key, value in augmentation.model_dump().items() if value}

    def rate(number: int) -> float:
        arguments = pickle.dumps((images, options, experiment.input_shape[0], BATCH, number))
        script = Path(__file__).with_name("torch_pipeline.py")
        return float(
            subprocess.run([sys.executable, script], input=arguments, stdout=subprocess.PIPE, check=True).stdout
        )

    return rate


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
    rate_of: dict[str, Callable[[int], float]] = {
        name: functools.partial(images_per_second, pipeline(dataset, experiment))
        for name, pipeline in (("ours", ours), ("plain", plain))
    }
    for rate in rate_of.values():
        rate(number // 4)
    if importlib.util.find_spec("torch"):
        rate_of["PyTorch"] = torch_rate(dataset, experiment)
    rounds_ = [{name: rate(number) for name, rate in rate_of.items()} for _ in range(rounds)]
    rates = {name: statistics.median(rates[name] for rates in rounds_) for name in rate_of}
    others = [name for name in rate_of if name != "ours"]
    ratios = {f"ours / {name}": statistics.median(rates["ours"] / rates[name] for rates in rounds_) for name in others}
    return {"images": name, **rates, **ratios}


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
    columns = [column for column in rows[0] if column != "images"]
    print(f"{'':34}", *(f"{column:>14}" for column in columns))
    for row in rows:
        values = (f"{row[column]:14,.2f}" if "/" in column else f"{row[column]:14,.0f}" for column in columns)
        print(f"{row['images']:34}", *values)


if __name__ == "__main__":
    main()
