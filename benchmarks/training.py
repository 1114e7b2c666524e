"""Measure whether training waits for its input pipeline: `python benchmarks/training.py [NETWORK...]`.

Uses the default experiment of each network with generated images of its dataset's size. Measures images per second of
training on a batch in memory, images per second of the input pipeline, and their ratio. Both are measured alternately
in one process. Values are medians over the rounds. Batches are smaller than the experiment's, to fit small machines.
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
from bnn_keras import catalog
from bnn_keras.build import build_loss, build_model, build_optimizer
from bnn_keras.data import open_data, training_batches
from bnn_keras.experiment import resolve

NETWORKS = [name for name in catalog.NETWORKS if not name.startswith("zoo/")]
BATCH_BY_HEIGHT = {32: 128, 28: 128}
LARGE_IMAGE_BATCH = 16


def images_per_second(step: Callable[[], Any], batch_size: int, seconds: float) -> float:
    """Measure images per second of a step on one batch, over at least `seconds` and two steps."""
    start, steps = time.perf_counter(), 0
    while steps < 2 or time.perf_counter() - start < seconds:
        step()
        steps += 1
    return steps * batch_size / (time.perf_counter() - start)


def measure(network: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Return a row of the table."""
    height = catalog.NETWORKS[network].input_shape[0]
    batch_size = BATCH_BY_HEIGHT.get(height, LARGE_IMAGE_BATCH)
    overrides = [f"data.examples={8 * batch_size}"]
    experiment = resolve(network, dataset="fake", batch_size=batch_size, overrides=overrides).experiment
    stage = experiment.stages[-1]
    model = build_model(experiment, stage)
    model.compile(build_optimizer(stage.optimizer, stage.epochs), build_loss(stage))
    pipeline = iter(training_batches(open_data(experiment), experiment, stage, 0, 1_000_000))
    one_batch = iter(tf.data.Dataset.from_tensors(next(pipeline)).repeat())
    step = model.make_train_function()

    def train() -> None:
        step(one_batch)

    def load() -> None:
        next(pipeline)

    for function in (train, load):
        images_per_second(function, batch_size, seconds / 4)  # compile and fill buffers
    rates = [[images_per_second(function, batch_size, seconds) for function in (train, load)] for _ in range(rounds)]
    return {
        "network": network,
        "images": " × ".join(map(str, experiment.input_shape)),
        "batch": batch_size,
        "training": statistics.median(training for training, _ in rates),
        "pipeline": statistics.median(loading for _, loading in rates),
        "ratio": statistics.median(loading / training for training, loading in rates),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="networks; default: all but Larq Zoo's")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (3)")
    parser.add_argument("--seconds", type=float, default=4.0, help="duration of a measurement (4)")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    options = parser.parse_args()
    rows = []
    if not options.json:
        print(f"{'network':16} {'images':>15} {'batch':>6} {'training':>10} {'pipeline':>10} {'ratio':>7}")
    for network in options.networks:
        row = measure(network, options.rounds, options.seconds)
        rows.append(row)
        tf.keras.backend.clear_session()
        if not options.json:
            print(
                f"{row['network']:16} {row['images']:>15} {row['batch']:6} {row['training']:10,.1f} "
                f"{row['pipeline']:10,.0f} {row['ratio']:7.1f}",
                flush=True,
            )
    if options.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
