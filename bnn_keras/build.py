"""Names to objects: the only place where the catalog's builder strings are resolved."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from bnn_keras import catalog, constraints, losses, schedules
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment, OptimizerConfig, ScheduleConfig, Stage
from bnn_keras.layers import Rotate180
from bnn_keras.schemes import Scheme


def _builder(reference: str) -> Callable[..., Any]:
    module, function = reference.split(":")
    return getattr(importlib.import_module(module), function)


def build_scheme(experiment: Experiment, stage: Stage | None = None) -> Scheme:
    """The scheme of a stage at its bits, without latent weights where its optimizer flips binary ones.

    The last stage's where none is given: what a training ends with.
    """
    chosen = experiment.scheme_of(stage or experiment.stages[-1])
    row = catalog.SCHEMES[chosen.name]
    options = {key: value for key, value in chosen.choices.items() if key not in row.anneals}
    scheme = _builder(row.builder)(**options).with_bits(chosen.bits)
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
        **options: Its own options (`catalog.NetworkRow.options`), and `structure` where it has several.

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
            f"{own}: choose a dataset with such images"
        ) from error
    if tf.keras.mixed_precision.global_policy().compute_dtype != tf.keras.backend.floatx():
        logits = tf.keras.layers.Activation("linear", dtype="float32", name="logits")(logits)
    return tf.keras.Model(images, logits, name=name.replace("/", "-"))


def build_model(experiment: Experiment, stage: Stage | None = None) -> tf.keras.Model:
    """The experiment's network, with fresh weights drawn with its seed and constrained once.

    Where the images of the dataset differ in size, the network has its own input shape.

    Args:
        experiment: Says network, scheme, classes.
        stage: The stage that it shall train in; the last one where absent.

    Returns:
        A model from normalised images (batch, height, width, channels) to logits (batch, classes).
    """
    tf.keras.utils.set_random_seed(experiment.seed)
    network = experiment.network
    model = build_network(
        network.name,
        build_scheme(experiment, stage),
        experiment.input_shape,
        experiment.data.row.classes,
        rotated=network.rotated,
        **network.choices,
        **({"structure": network.structure} if network.structure else {}),
    )
    constraints.apply_constraints(model)
    return model


# What a schedule's table is made from: its function, and whether that needs to know how long the stage is.
_SCHEDULES: dict[str, tuple[Callable[..., schedules.Schedule], bool]] = {
    "step": (functools.partial(schedules.exponential, staircase=True), False),
    "multi_step": (schedules.multi_step, False),
    "exponential": (schedules.exponential, False),
    "geometric": (schedules.geometric, True),
    "linear": (schedules.polynomial, True),
    "polynomial": (schedules.polynomial, True),
    "cosine": (schedules.cosine, True),
    "cosine_restarts": (schedules.cosine_restarts, True),
}


def build_schedule(value: float | ScheduleConfig, epochs: int) -> schedules.Schedule:
    """A hyper-parameter as a function of the epochs since its stage, of so many epochs, began.

    Fractions of an epoch count where the schedule changes with every step; else it stands still within each epoch.
    """
    if not isinstance(value, ScheduleConfig):
        return schedules.constant(value)
    function, needs_length = _SCHEDULES[value.schedule]
    found = function(**value.arguments, **({"epochs": epochs} if needs_length else {}))
    if value.lead:
        found = schedules.ahead(found, value.lead)
    if value.warm_up:
        found = schedules.warmed_up(found, value.warm_up.initial, value.warm_up.epochs)
    return found if value.every == "step" else schedules.by_epoch(found)


def build_annealing(experiment: Experiment, stage: Stage) -> dict[str, schedules.Schedule]:
    """What anneals in a stage's scheme, as functions of the epoch over all stages."""
    scheme = experiment.scheme_of(stage)
    values = {name: getattr(scheme, name) for name in catalog.SCHEMES[scheme.name].anneals}
    found = {name: build_schedule(value, experiment.epochs) for name, value in values.items() if value is not None}
    if "t" in found and "k" not in found:
        found["k"] = schedules.error_decay_scale(found["t"])
    return found


def build_schedules(optimizer: OptimizerConfig, epochs: int) -> dict[str, schedules.Schedule]:
    """Learning rate, and what else changes in a stage of so many epochs, as functions of the epochs since it began."""
    values = {"learning_rate": optimizer.learning_rate, **optimizer.choices}
    return {
        name: build_schedule(value, epochs)
        for name, value in values.items()
        if name == "learning_rate" or isinstance(value, ScheduleConfig)
    }


def build_optimizer(optimizer: OptimizerConfig, epochs: int) -> tf.keras.optimizers.legacy.Optimizer:
    """The optimizer, with the hyper-parameters of the first step of a stage of so many epochs."""
    first = {name: schedule(0) for name, schedule in build_schedules(optimizer, epochs).items()}
    decay = {"weight_decay": optimizer.weight_decay, "weight_decay_of": optimizer.weight_decay_of}
    return _builder(catalog.OPTIMIZERS[optimizer.name].builder)(**{**decay, **optimizer.choices, **first})


def build_loss(stage: Stage | None = None) -> tf.keras.losses.Loss:
    """The loss of a stage on logits and labels, or cross-entropy as it is, which evaluation measures."""
    smoothing = stage.label_smoothing if stage else 0.0
    if not smoothing:
        return tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return losses.SmoothedCrossEntropy(smoothing)


def build_metrics(classes: int) -> list[tf.keras.metrics.Metric]:
    """Top-1 and top-5 accuracy (of as many classes as there are, where there are fewer), and cross-entropy as it is."""
    return [
        tf.keras.metrics.SparseCategoricalCrossentropy(name="cross_entropy", from_logits=True),
        tf.keras.metrics.SparseCategoricalAccuracy(name="top1"),
        tf.keras.metrics.SparseTopKCategoricalAccuracy(min(5, classes), name="top5"),
    ]


def percent(fraction: float) -> float:
    """A metric of `build_metrics` in percent, without the rounding noise of its float32."""
    return round(100 * float(fraction), 4)
