"""Stop a training whose loss is not finite, and find the step and the layer in which that began."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras.training.callbacks import require_finite

Logs = dict[str, Any]


class StopIfNotFinite(tf.keras.callbacks.Callback):
    """Stop the training if its loss is not finite.

    The loss of a step is read after the next one, when the device has computed it: reading it at once would let the
    device wait for Python in each step. `MeasureEpoch` reads that of an epoch's last step.

    Raises:
        DivergedError: The mean of the epoch's losses is not finite.
    """

    _supports_tf_logs = True

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Store the index of the epoch."""
        self.epoch, self.loss = epoch, 0.0

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Read the loss of the step before."""
        if not math.isfinite(self.loss):
            require_finite(self.model, {"loss": self.loss}, self.epoch)
        self.loss = (logs or {}).get("loss", 0.0)


@dataclasses.dataclass(frozen=True)
class Divergence:
    """Where a training diverged.

    Attributes:
        epoch: Index of the epoch.
        step: Index of the step in the epoch.
        what: What is not finite first: "the output of layer 'conv1'", …
    """

    epoch: int
    step: int
    what: str


def find_divergence(
    model: tf.keras.Model,
    batches: Callable[[int, int], tf.data.Dataset],
    start: tuple[int, int],
    end: int,
    steps: int,
    callbacks: Sequence[tf.keras.callbacks.Callback],
) -> Divergence | None:
    """Repeat the steps of a training until a weight is not finite, and examine the batch of that step.

    Args:
        model: The compiled network, with its weights and the optimizer's state at the start.
        batches: Returns the batches from a step of an epoch on.
        start: Epoch and step to start from.
        end: Epoch after the last.
        steps: Steps per epoch.
        callbacks: Those that change the training: schedules.

    Returns:
        The first step after which a weight is not finite, or None if there is none: the operations of some devices do
        not repeat exactly.
    """
    epoch, step = start
    watch = _Watch()
    model._maybe_load_initial_counters_from_ckpt = lambda steps, epoch: (epoch, step)
    model.fit(
        batches(epoch, step),
        steps_per_epoch=steps,
        initial_epoch=epoch,
        epochs=end,
        verbose=0,
        callbacks=[*callbacks, watch],
    )
    if not watch.damaged:
        return None
    model.set_weights(watch.before)
    images, labels = next(iter(batches(watch.epoch, watch.step)))
    what = first_not_finite(model, images, labels) or f"the update of weight {watch.damaged!r}"
    return Divergence(watch.epoch, watch.step, what)


class _Watch(tf.keras.callbacks.Callback):
    """Stop after the first step that leaves a weight that is not finite; keep the weights before it."""

    damaged: str | None = None

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        self.step, self.before = batch, self.model.get_weights()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        weights = zip(self.model.weights, self.model.get_weights(), strict=True)
        self.damaged = next((variable.name for variable, value in weights if not np.isfinite(value).all()), None)
        self.model.stop_training = self.damaged is not None


def first_not_finite(model: tf.keras.Model, images: tf.Tensor, labels: tf.Tensor) -> str | None:
    """Return what is not finite first in a training step on a batch, or None.

    Outputs are examined from the first layer to the last one, then the loss, then gradients from the last layer to the
    first one.

    Args:
        model: A compiled functional network.
        images: The images, (batch, height, width, channels).
        labels: The labels, (batch,).

    Example:
        >>> inputs = tf.keras.Input((2,))
        >>> x = tf.keras.layers.Rescaling(1e38, name="large")(inputs)
        >>> model = tf.keras.Model(inputs, tf.keras.layers.Rescaling(10.0, name="larger")(x))
        >>> model.compile(loss="mse")
        >>> first_not_finite(model, tf.ones((1, 2)), tf.ones((1, 2)))
        "the output of layer 'larger'"
    """
    layers = [layer for layer in model.layers if layer._inbound_nodes]
    probe = tf.keras.Model(model.inputs, [[layer.get_output_at(0) for layer in layers], model.output])
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs, logits = probe(images, training=True)
        loss = model.compiled_loss(labels, logits, regularization_losses=model.losses)
    for layer, output in zip(layers, outputs, strict=True):
        if not _finite([output]):
            return f"the output of layer {layer.name!r}"
    if not _finite([loss]):
        return "the loss"
    weights = [layer.trainable_variables for layer in layers]
    gradients = tape.gradient(loss, [outputs, weights])
    for layer, *found in reversed(list(zip(layers, *gradients, strict=True))):
        if not _finite(tf.nest.flatten(found)):
            return f"the gradient of layer {layer.name!r}"
    return None


def _finite(tensors: Iterable[tf.Tensor | None]) -> bool:
    return all(bool(tf.reduce_all(tf.math.is_finite(tensor))) for tensor in tensors if tensor is not None)
