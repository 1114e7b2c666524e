"""Names to objects: the only place where the catalog's builder strings are resolved."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from bnn_keras import catalog, constraints, schedules
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment, Geometric, MultiStep, Optimizer, Schedule, Stage
from bnn_keras.layers import Rotate180
from bnn_keras.schemes import Scheme


def _builder(reference: str) -> Callable[..., Any]:
    module, function = reference.split(":")
    return getattr(importlib.import_module(module), function)


def build_scheme(experiment: Experiment) -> Scheme:
    """The experiment's scheme at its bits, without latent weights where its optimizer flips binary ones."""
    row = catalog.SCHEMES[experiment.scheme.name]
    options = {key: value for key, value in experiment.scheme.choices.items() if key not in row.anneals}
    scheme = _builder(row.builder)(**options).with_bits(experiment.scheme.bits)
    return scheme.without_latents() if experiment.latent_free else scheme


def build_network(
    name: str,
    scheme: Scheme,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    rotated: bool = False,
    **options: Any,
) -> tf.keras.Model:
    """A network of the catalog with fresh weights.

    Args:
        name: Its name.
        scheme: Gives its binary layers.
        input_shape: Height, width, channels of the images.
        classes: Number of logits.
        rotated: Turn the images by 180° first (`layers.Rotate180`).
        **options: Its own options (`catalog.Network.options`), and `structure` where it has several.

    Returns:
        A model from normalised images (batch, height, width, channels) to logits (batch, classes).

    Raises:
        BnnError: The images are too small for the network, or an option is.
    """
    images = tf.keras.layers.Input(input_shape)
    try:
        logits = _builder(catalog.NETWORKS[name].builder)(
            scheme, Rotate180(name="rotate180")(images) if rotated else images, classes, **options
        )
    except ValueError as error:
        own = " × ".join(map(str, catalog.NETWORKS[name].input_shape))
        raise BnnError(
            f"cannot build network {name!r} for images {' × '.join(map(str, input_shape))} ({error}); it is made for "
            f"{own}: choose a data set with such images"
        ) from error
    return tf.keras.Model(images, logits, name=name.replace("/", "-"))


def build_model(experiment: Experiment) -> tf.keras.Model:
    """The experiment's network, with fresh weights drawn with its seed and constrained once.

    Where the images of the data set differ in size, the network has its own input shape.

    Returns:
        A model from normalised images (batch, height, width, channels) to logits (batch, classes).
    """
    tf.keras.utils.set_random_seed(experiment.seed)
    network = experiment.network
    model = build_network(
        network.name,
        build_scheme(experiment),
        experiment.input_shape,
        catalog.DATASETS[experiment.data.name].classes,
        rotated=network.rotated,
        **network.choices,
        **({"structure": network.structure} if network.structure else {}),
    )
    constraints.apply_constraints(model)
    return model


def build_schedule(value: float | Schedule, epochs: int) -> schedules.Schedule:
    """A hyper-parameter as a function of the epoch, over so many epochs."""
    if isinstance(value, Geometric):
        return schedules.geometric(value.initial, value.final, epochs)
    if isinstance(value, MultiStep):
        return schedules.multi_step(**value.model_dump(exclude={"schedule"}))
    return schedules.constant(value)


def build_annealing(experiment: Experiment) -> dict[str, schedules.Schedule]:
    """What anneals in the experiment's scheme, as functions of the epoch over all stages."""
    values = {name: getattr(experiment.scheme, name) for name in catalog.SCHEMES[experiment.scheme.name].anneals}
    found = {name: build_schedule(value, experiment.epochs) for name, value in values.items() if value is not None}
    if "t" in found and "k" not in found:
        found["k"] = schedules.error_decay_scale(found["t"])
    return found


def build_optimizer(optimizer: Optimizer, epochs: int) -> tf.keras.optimizers.legacy.Optimizer:
    """The optimizer, with the hyper-parameters of the first epoch of a stage of so many epochs."""
    values = {"learning_rate": optimizer.learning_rate, **optimizer.choices}
    first = {name: build_schedule(value, epochs)(0) for name, value in values.items()}
    return _builder(catalog.OPTIMIZERS[optimizer.name].builder)(weight_decay=optimizer.weight_decay, **first)


def build_schedules(optimizer: Optimizer, epochs: int) -> dict[str, schedules.Schedule]:
    """Learning rate, and what else changes in a stage of so many epochs, as functions of the epoch since it began."""
    values = {"learning_rate": optimizer.learning_rate, **optimizer.choices}
    return {
        name: build_schedule(value, epochs)
        for name, value in values.items()
        if name == "learning_rate" or isinstance(value, MultiStep | Geometric)
    }


def build_loss(stage: Stage) -> tf.keras.losses.Loss:
    """The loss of a stage, on logits and labels."""
    return {"cross_entropy": tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)}[stage.loss]


def build_metrics(model: tf.keras.Model) -> list[tf.keras.metrics.Metric]:
    """Top-1 and top-5 accuracy (of as many classes as there are, where there are fewer)."""
    return [
        tf.keras.metrics.SparseCategoricalAccuracy(name="top1"),
        tf.keras.metrics.SparseTopKCategoricalAccuracy(min(5, model.output_shape[-1]), name="top5"),
    ]


def percent(fraction: float) -> float:
    """A metric of `build_metrics` in percent, without the rounding noise of its float32."""
    return round(100 * float(fraction), 4)
