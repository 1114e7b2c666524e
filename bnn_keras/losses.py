"""What training minimises beside Keras's own cross-entropy, on logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


class SmoothedCrossEntropy(tf.keras.losses.Loss):
    """Cross-entropy with smoothed labels: −Σ q log p, q = 1 − ε + ε / C for the label and ε / C for each other class.

    Args:
        smoothing: ε.
        **kwargs: As `tf.keras.losses.Loss`.

    Labels are numbers (batch,), logits (batch, C).

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7; Bi-Real-net, pytorch_implementation/BiReal18_34/utils.py.
    """

    def __init__(self, smoothing: float, **kwargs: Any):
        super().__init__(**{"name": "smoothed_cross_entropy", **kwargs})
        self.smoothing = smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """The loss of each example."""
        labels = tf.one_hot(tf.cast(tf.reshape(y_true, [-1]), tf.int32), y_pred.shape[-1], dtype=y_pred.dtype)
        return tf.keras.losses.categorical_crossentropy(
            labels, y_pred, from_logits=True, label_smoothing=self.smoothing
        )

    def get_config(self) -> dict[str, Any]:
        """Its arguments."""
        return {**super().get_config(), "smoothing": self.smoothing}


class Distillation(tf.keras.layers.Layer):
    """Adds what a teacher says to the loss: weight · T² · KL(softmax(teacher / T) ‖ softmax(logits / T)).

    Takes (images, logits) and gives the logits back; the mean over the batch is added with `add_loss`. No gradient
    reaches the teacher, and its weights are none of this layer's.

    Args:
        teacher: From images to logits; a model runs as in evaluation, whatever the student does.
        temperature: T.
        weight: What the divergence is multiplied by.

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2.
    """

    def __init__(self, teacher: Callable[[tf.Tensor], tf.Tensor], temperature: float, weight: float, **kwargs: Any):
        super().__init__(**kwargs)
        # Keras would take over the weights of a model, but looks into no function; a model called in here would train.
        mode = {"training": False} if isinstance(teacher, tf.keras.layers.Layer) else {}
        self.teach = lambda images: tf.stop_gradient(teacher(images, **mode))
        self.temperature = temperature
        self.weight = weight

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """The logits, as they are."""
        images, logits = inputs
        expected = tf.nn.log_softmax(tf.cast(self.teach(images), logits.dtype) / self.temperature)
        found = tf.nn.log_softmax(logits / self.temperature)
        divergence = tf.reduce_sum(tf.exp(expected) * (expected - found), axis=-1)
        self.add_loss(self.weight * self.temperature**2 * tf.reduce_mean(divergence))
        return tf.identity(logits)
