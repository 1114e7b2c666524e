"""Names to objects: the only place where the catalog's builder strings are resolved."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from bnn_keras import catalog, constraints, schedules
from bnn_keras.experiment import Experiment, MultiStep, Optimizer, Stage


def _builder(reference: str) -> Callable[..., Any]:
    module, function = reference.split(":")
    return getattr(importlib.import_module(module), function)


def build_model(experiment: Experiment) -> tf.keras.Model:
    """The experiment's network, with fresh weights drawn with its seed and constrained once.

    Returns:
        A model from normalised images (batch, height, width, channels) to logits (batch, classes).
    """
    tf.keras.utils.set_random_seed(experiment.seed)
    data = catalog.DATASETS[experiment.data.name]
    scheme = _builder(catalog.SCHEMES[experiment.scheme.name].builder)(experiment.scheme.bits)
    network = _builder(catalog.NETWORKS[experiment.network.name].builder)
    model = network(scheme, data.input_shape, data.classes)
    constraints.apply_constraints(model)
    return model


def build_schedule(value: float | MultiStep) -> schedules.Schedule:
    """A hyper-parameter as a function of the epoch."""
    if isinstance(value, MultiStep):
        return schedules.multi_step(**value.model_dump(exclude={"schedule"}))
    return schedules.constant(value)


def build_optimizer(optimizer: Optimizer) -> tf.keras.optimizers.legacy.Optimizer:
    """The optimizer, with the learning rate of the first epoch."""
    return _builder(catalog.OPTIMIZERS[optimizer.name].builder)(
        learning_rate=build_schedule(optimizer.learning_rate)(0),
        weight_decay=optimizer.weight_decay,
        **optimizer.hyperparameters(),
    )


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
