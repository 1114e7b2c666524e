"""Measure the health of each layer: of its weights after each epoch, and of its inputs and gradients now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import larq
import numpy as np
import tensorflow as tf

from bnn_keras.constraints import clip_limit
from bnn_keras.counts import binary_variables
from bnn_keras.quantizers import outside_window
from bnn_keras.training.callbacks import MeasureEpoch
from bnn_keras.training.distribution import Replicas

Logs = dict[str, Any]
STEPS_BETWEEN_PROBES = 500
PROBED_IMAGES = 64


class MeasureHealth(tf.keras.callbacks.Callback):
    """Add measures of each layer to the epoch's logs, under the names "<measure>/<layer>".

    After each epoch, for each binary kernel:

    - `flip_ratio`: share of weights whose sign differs between the start and the end of the epoch
    - `positive_weights`: share of weights with the sign +1
    - `clipped_weights`: share of latent weights at the limit of their constraint

    After each epoch in which the number of steps passes a multiple of 500, the measures of `build_probe`:
    `saturated_inputs`, `constant_inputs`, `gradient_norm`, `batch_norm_shift`. A probe costs about as
    much as a step. It changes no variable, and which epochs have one depends on the number of steps only, so a resumed
    training measures the same.

    Args:
        measure: Measures the signs of the epoch. It has to be called before.
        batch: Returns images and labels, always the same ones.
        replicas: All replicas. With several, the first one of this process is measured.
        steps: Steps per epoch.
        begin: Epoch at which the stage starts.
    """

    def __init__(
        self,
        measure: MeasureEpoch,
        batch: Callable[[], tuple[tf.Tensor, tf.Tensor]],
        replicas: Replicas,
        steps: int,
        begin: int,
    ):
        super().__init__()
        self.measure = measure
        self.batch = batch
        self.replicas = replicas
        self.steps = steps
        self.begin = begin
        self.probe: Callable[[], dict[str, tf.Tensor]] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Add the measures to the epoch's logs."""
        if logs is None:
            return
        measured = dict(measure_weights(self.model, self.measure))
        before = (epoch - self.begin) * self.steps
        if self.replicas.eager and before // STEPS_BETWEEN_PROBES != (before + self.steps) // STEPS_BETWEEN_PROBES:
            self.probe = self.probe or build_probe(self.model, *self.batch())
            measured |= {name: float(value) for name, value in self.replicas.on_first(self.probe).items()}
        logs.update({name: float(f"{value:.6g}") for name, value in measured.items()})


def measure_weights(model: tf.keras.Model, measure: MeasureEpoch) -> Iterator[tuple[str, float]]:
    """Yield the measures of the binary kernels of a model, by name, after an epoch was measured."""
    for variable, signs, flips in zip(binary_variables(model), measure.signs, measure.flips, strict=True):
        layer = variable.name.removesuffix(":0").removesuffix("/kernel")
        yield f"flip_ratio/{layer}", flips / signs.size
        yield f"positive_weights/{layer}", np.count_nonzero(signs) / signs.size
        limit = clip_limit(variable.constraint)
        if limit is not None:
            latent = np.abs(variable.latent_variable.read_value())
            yield f"clipped_weights/{layer}", np.count_nonzero(latent >= latent.dtype.type(limit)) / latent.size


def build_probe(model: tf.keras.Model, images: tf.Tensor, labels: tf.Tensor) -> Callable[[], dict[str, tf.Tensor]]:
    """Return a function that measures the inputs and gradients of all layers on a batch.

    The network runs in inference mode, which changes no statistics, and in Python, because compiling it would take
    longer than all probes of a short training.

    Args:
        model: A compiled functional network.
        images: The images, (batch, height, width, channels).
        labels: The labels, (batch,).

    Returns:
        A function that returns, by name:

        - `saturated_inputs/<layer>`: share of a layer's binary inputs outside of the window of their estimator
          (`quantizers.outside_window`)
        - `constant_inputs/<layer>`: share of channels of its binary inputs with one sign in all images
        - `gradient_norm/<layer>`: norm of the gradient of its kernels
        - `batch_norm_shift/<layer>`: |mean of the batch − moving mean| / moving deviation of a batch norm, mean over
          the channels

    Example:
        >>> inputs = tf.keras.Input((2,))
        >>> layer = larq.layers.QuantDense(1, input_quantizer="ste_sign", kernel_initializer="ones", name="dense")
        >>> model = tf.keras.Model(inputs, layer(inputs))
        >>> model.compile(loss="mse")
        >>> measured = build_probe(model, tf.constant([[0.5, -3.0], [2.0, -0.5]]), tf.constant([[1.0], [1.0]]))()
        >>> {name: float(value) for name, value in measured.items()}
        {'saturated_inputs/dense': 0.5, 'constant_inputs/dense': 1.0, 'gradient_norm/dense': 2.8284270763397217}
    """
    layers = [layer for layer in model.layers if layer._inbound_nodes]
    quantizers = {layer.name: quantizer for layer in layers if (quantizer := _input_quantizer(layer)) is not None}
    norms = {layer.name: layer for layer in layers if isinstance(layer, tf.keras.layers.BatchNormalization)}
    inputs = {layer.name: layer.get_input_at(0) for layer in layers if layer.name in quantizers.keys() | norms.keys()}
    kernels = {layer.name: weights for layer in layers if (weights := _kernels(layer))}
    network = tf.keras.Model(model.inputs, [inputs, model.output], name="probe")

    def probe() -> dict[str, tf.Tensor]:
        # Keras divides the loss by the number of replicas. Without a scale, small gradients would vanish in float16;
        # with that of the training, which adapts to its own batches, large ones could overflow.
        scale = tf.cast(getattr(model.optimizer, "loss_scale", 16.0), tf.float32) / 16
        factor = scale * tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as tape:
            features, logits = network(images, training=False)
            loss = factor * model.compiled_loss(labels, logits, regularization_losses=model.losses)
        gradients = tape.gradient(loss, kernels, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        measured = {}
        for name, quantizer in quantizers.items():
            measured[f"saturated_inputs/{name}"] = _share(outside_window(quantizer, features[name]))
            measured[f"constant_inputs/{name}"] = _share(_constant_channels(quantizer(features[name]) >= 0))
        for name in kernels:
            measured[f"gradient_norm/{name}"] = tf.linalg.global_norm(gradients[name]) / scale
        for name, layer in norms.items():
            measured[f"batch_norm_shift/{name}"] = _shift(layer, tf.cast(features[name], tf.float32))
        return measured

    return probe


def _input_quantizer(layer: tf.keras.layers.Layer) -> Any:
    """Return the quantizer of a layer's inputs if it has one bit; a quantizer may be a layer itself."""
    quantizer = layer if isinstance(layer, larq.quantizers.Quantizer) else getattr(layer, "input_quantizer", None)
    return quantizer if getattr(quantizer, "precision", None) == 1 else None


def _kernels(layer: tf.keras.layers.Layer) -> list[tf.Variable]:
    return [variable for variable in layer.trainable_variables if variable.shape.rank > 1]


def _share(mask: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.cast(mask, tf.float32))


def _constant_channels(positive: tf.Tensor) -> tf.Tensor:
    """Return which channels, the last axis, have one sign everywhere."""
    axes = tuple(range(len(positive.shape) - 1))
    return tf.reduce_all(positive, axes) | ~tf.reduce_any(positive, axes)


def _shift(layer: tf.keras.layers.BatchNormalization, features: tf.Tensor) -> tf.Tensor:
    mean = tf.reduce_mean(features, tuple(range(len(features.shape) - 1)))
    deviation = tf.sqrt(tf.convert_to_tensor(layer.moving_variance) + layer.epsilon)
    return tf.reduce_mean(tf.abs(mean - layer.moving_mean) / deviation)
