"""Does training wait for its images? `python benchmarks/training.py [NETWORK...]`.

For the default experiment of each network, with made-up images of its dataset's size: images per second that the
network trains on when they are there already, images per second that the input pipeline of the recipe makes, and their
ratio. Both take turns in one process; rates are medians over the rounds, the ratio is that of each round. Batches are
smaller than the recipe's where those do not fit a small machine.
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
from bnn_keras import catalog
from bnn_keras.build import build_loss, build_model, build_optimizer
from bnn_keras.data import open_data, training_batches
from bnn_keras.experiment import resolve

NETWORKS = [name for name in catalog.NETWORKS if not name.startswith("zoo/")]
BATCH = {32: 128, 28: 128}  # by the height of the images; larger ones:
LARGE_BATCH = 16


def images_per_second(step: Callable[[], Any], batch_size: int, seconds: float) -> float:
    """How fast a step goes that takes a batch, measured over so many seconds and two steps at least."""
    start, steps = time.perf_counter(), 0
    while steps < 2 or time.perf_counter() - start < seconds:
        step()
        steps += 1
    return steps * batch_size / (time.perf_counter() - start)


def measure(network: str, rounds: int, seconds: float) -> dict[str, Any]:
    """A row of the table."""
    height = catalog.NETWORKS[network].input_shape[0]
    batch_size = BATCH.get(height, LARGE_BATCH)
    fake = resolve(network, dataset="fake", batch_size=batch_size, overrides=[f"data.examples={8 * batch_size}"])
    experiment = fake.experiment
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

    for turn in (train, load):
        images_per_second(turn, batch_size, seconds / 4)  # compiles, and fills buffers
    rates = [[images_per_second(turn, batch_size, seconds) for turn in (train, load)] for _ in range(rounds)]
    return {
        "network": network,
        "images": " × ".join(map(str, experiment.input_shape)),
        "batch": batch_size,
        "training": statistics.median(trained for trained, _ in rates),
        "pipeline": statistics.median(loaded for _, loaded in rates),
        "ratio": statistics.median(loaded / trained for trained, loaded in rates),
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="networks; all of the papers' where left out")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (3)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a turn (4)")
    parser.add_argument("--json", action="store_true", help="print one JSON value and nothing else")
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
