"""Losses on logits beside Keras's own cross-entropy: smoothed labels, and distillation from a teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


class SmoothedCrossEntropy(tf.keras.losses.Loss):
    """Cross-entropy with smoothed labels.

    −Σ q log p with q = 1 − ε + ε / C for the label and q = ε / C for each of the other classes. The labels are class
    indices (batch,) or (batch, 1), the predictions are logits (batch, C).

    Args:
        smoothing: ε.
        **kwargs: Keyword arguments of `tf.keras.losses.Loss`.

    Example:
        >>> loss = SmoothedCrossEntropy(0.1)
        >>> labels, logits = tf.constant([0, 1]), tf.constant([[2.0, 0.0], [2.0, 0.0]])
        >>> print(f"{loss(labels, logits).numpy():.4f}")
        1.1269

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7; Bi-Real-net, pytorch_implementation/BiReal18_34/utils.py.
    """

    def __init__(self, smoothing: float, **kwargs: Any):
        super().__init__(**{"name": "smoothed_cross_entropy", **kwargs})
        self.smoothing = smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Return the loss of each example, (batch,)."""
        labels = tf.one_hot(tf.cast(tf.reshape(y_true, [-1]), tf.int32), y_pred.shape[-1], dtype=y_pred.dtype)
        return tf.keras.losses.categorical_crossentropy(
            labels, y_pred, from_logits=True, label_smoothing=self.smoothing
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the loss."""
        return {**super().get_config(), "smoothing": self.smoothing}


class Distillation(tf.keras.layers.Layer):
    """Add the divergence from a teacher to the loss: weight · T² · KL(softmax(teacher / T) ‖ softmax(logits / T)).

    The layer takes (images, logits) and returns the logits unchanged. It adds the mean over the batch with `add_loss`.
    No gradient reaches the teacher, and the weights of the teacher are not weights of this layer.

    With T = 1 and weight 1, ReActNet's distribution loss −Σ p log q, p = softmax(teacher), q = softmax(logits), is this
    loss plus the teacher's entropy −Σ p log p. The gradients are equal.

    Args:
        teacher: A function from images to logits. A Keras model runs in inference mode, also during training.
        temperature: T.
        weight: The factor of the divergence.

    Example:
        >>> layer = Distillation(lambda images: tf.constant([[2.0, 0.0]]), temperature=2.0, weight=0.5)
        >>> layer((tf.zeros((1, 4)), tf.constant([[0.0, 2.0]]))).numpy()
        array([[0., 2.]], dtype=float32)
        >>> print(f"{layer.losses[0].numpy():.4f}")
        0.9242

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2; ReActNet, utils/KD_loss.py.
    """

    def __init__(self, teacher: Callable[[tf.Tensor], tf.Tensor], temperature: float, weight: float, **kwargs: Any):
        super().__init__(**kwargs)
        # A lambda hides the teacher from Keras, which would track its weights and run it in training mode.
        mode = {"training": False} if isinstance(teacher, tf.keras.layers.Layer) else {}
        self.teacher_logits = lambda images: tf.stop_gradient(teacher(images, **mode))
        self.temperature = temperature
        self.weight = weight

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Add the loss and return the logits unchanged, (batch, classes)."""
        images, logits = inputs
        target = tf.nn.log_softmax(tf.cast(self.teacher_logits(images), logits.dtype) / self.temperature)
        predicted = tf.nn.log_softmax(logits / self.temperature)
        divergence = tf.reduce_sum(tf.exp(target) * (target - predicted), axis=-1)
        self.add_loss(self.weight * self.temperature**2 * tf.reduce_mean(divergence))
        return tf.identity(logits)
