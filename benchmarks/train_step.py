"""Compare training steps of every scheme with the float network, with plain Larq and with PyTorch.

Run `python benchmarks/train_step.py`, or name networks and schemes. One batch of generated images in memory; no input
pipeline and no metrics. The contestants of a row are measured alternately in one process; each figure is the median
over the rounds, ratios those of the rounds.

- float: the same network and optimizer with the scheme `float`.
- Larq: the same layers with `ste_sign` as Larq has it, and Keras's batch norm.
- PyTorch: the reference's training step (`torch_networks.py`), in float32, for its own network and scheme.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import bnn_keras  # noqa: F401  (import before Larq: selects Keras 2)

# isort: split
import larq
import numpy as np
import tensorflow as tf
from training import images_per_second

from bnn_keras import catalog, train
from bnn_keras.build import build_loss, build_model, build_optimizer
from bnn_keras.experiment import Experiment, resolve
from bnn_keras.graphs import copy_layer, rebuild
from bnn_keras.layers import ScaledConv2D, TorchBatchNormalization, precision_policy

Step = Callable[[], Any]

NETWORKS = ("lenet5", "resnet20")
SCHEMES = {
    **{name: {"scheme": name} for name, row in catalog.SCHEMES.items() if row.layers and "1/1" in row.bits},
    "bop": {"optimizer": "bop"},
}
PRECISIONS = ("float32", "mixed_bfloat16")
LARQ = {ScaledConv2D: larq.layers.QuantConv2D, larq.layers.QuantDense: larq.layers.QuantDense}


def keras_step(experiment: Experiment, model: tf.keras.Model, images: np.ndarray, labels: np.ndarray) -> Step:
    """Return a training step of a model on one batch, with the experiment's optimizer and loss."""
    stage = experiment.stages[-1]
    model.compile(build_optimizer(stage.optimizer, stage.epochs), build_loss(stage))
    batch = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())
    step = model.make_train_function()
    return lambda: step(batch)


def plain_larq(model: tf.keras.Model) -> tf.keras.Model:
    """Return the model with Larq's layers and `ste_sign` in the place of ours, and Keras's batch norm."""
    copies: dict[tf.keras.layers.Layer, tf.keras.layers.Layer] = {}

    def plain(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, TorchBatchNormalization):
            return tf.keras.layers.BatchNormalization.from_config(config)
        if type(layer) not in LARQ or not layer.kernel_quantizer:
            return copy_layer(layer)
        config |= {"kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip"}
        if getattr(layer.input_quantizer, "precision", None) == 1:
            config["input_quantizer"] = "ste_sign"
        return LARQ[type(layer)].from_config(config)

    def layers_for(node: Any) -> list[tf.keras.layers.Layer]:
        if node.layer not in copies:
            copies[node.layer] = plain(node.layer)
        return [copies[node.layer]]

    return rebuild(model, layers_for)


def contestants(network: str, scheme: str, precision: str, batch: int) -> dict[str, Step]:
    """Return the training steps of a row by the name of their column."""
    options = {"dataset": "fake", "batch_size": batch, "overrides": [f"data.examples={batch}"]}
    ours = resolve(network, **options, **SCHEMES[scheme]).experiment
    floats = resolve(network, **options, scheme="float").experiment
    random = np.random.default_rng(0)
    images = random.normal(0, 1, (batch, *ours.input_shape)).astype(np.float32)
    labels = random.integers(0, ours.data.row.classes, batch)
    with precision_policy(precision):
        models = {"ours": (ours, build_model(ours)), "float": (floats, build_model(floats))}
        if scheme != "bop":
            models["Larq"] = (ours, plain_larq(models["ours"][1]))
    steps = {name: keras_step(experiment, model, images, labels) for name, (experiment, model) in models.items()}
    if importlib.util.find_spec("torch"):
        import torch_networks

        if (network, scheme) in torch_networks.NETWORKS:
            steps["PyTorch"] = torch_networks.training_step(network, scheme, images, labels)
    return steps


def measure(network: str, scheme: str, precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return a row of the table."""
    steps = contestants(network, scheme, precision, options.batch_size)
    for step in steps.values():
        images_per_second(step, options.batch_size, options.seconds / 4)  # compile and fill buffers
    rounds = [
        {name: images_per_second(step, options.batch_size, options.seconds) for name, step in steps.items()}
        for _ in range(options.rounds)
    ]
    ratios = {
        name: statistics.median(rates["ours"] / rates[name] for rates in rounds) for name in steps if name != "ours"
    }
    ours = statistics.median(rates["ours"] for rates in rounds)
    return {"network": network, "scheme": scheme, "precision": precision, "images_per_second": ours, **ratios}


def job(options: argparse.Namespace) -> float:
    """Return images per second of a whole training of LeNet-5 on the digits that ship with the package."""
    experiment = resolve("lenet5", epochs=options.rounds + 1, batch_size=options.batch_size).experiment
    with tempfile.TemporaryDirectory() as folder:
        return float(train(experiment, folder, plain=True)["images_per_second"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, help=f"networks; default: {', '.join(NETWORKS)}")
    parser.add_argument("--scheme", action="append", choices=SCHEMES, help="schemes; default: all, and Bop")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="precisions; default: both")
    parser.add_argument("--batch-size", type=int, default=128, help="images per step (128)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of a measurement (2)")
    parser.add_argument("--job", action="store_true", help="also measure a whole training of LeNet-5")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    options = parser.parse_args()
    rows = []
    columns = ("float", "Larq", "PyTorch")
    if not options.json:
        print(f"{'network':10} {'scheme':10} {'precision':15} {'images/s':>9}", *(f"{name:>8}" for name in columns))
    for network in options.networks:
        for scheme in options.scheme or SCHEMES:
            for precision in options.precision or PRECISIONS:
                row = measure(network, scheme, precision, options)
                rows.append(row)
                tf.keras.backend.clear_session()
                if not options.json:
                    ratios = (f"{row[name]:8.2f}" if name in row else f"{'':8}" for name in columns)
                    start = f"{network:10} {scheme:10} {precision:15} {row['images_per_second']:9,.0f}"
                    print(start, *ratios, flush=True)
    if options.job:
        rate = job(options)
        rows.append({"network": "lenet5", "job": rate})
        if not options.json:
            print(f"whole training of LeNet-5: {rate:,.0f} images/s")
    if options.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
