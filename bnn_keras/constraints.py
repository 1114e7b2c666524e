"""Constraints on latent weights, applied after every update."""

from __future__ import annotations

from typing import Any

import larq
import tensorflow as tf


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("centre_and_clip")
class CentreAndClip(tf.keras.constraints.Constraint):
    """Centre latent kernels over the input channels, then clip them, as XNOR-Net does.

    w ← clip(w − mean_c(w), −limit, limit), with the mean over the input channels c at each position of each filter.

    The reference applies this before every forward pass, including those of evaluation, which therefore change latent
    weights if the clip is active. As a constraint it runs after each update and once before the first forward pass:
    training is the same, and evaluation does not change weights.

    Args:
        limit: Largest magnitude of a latent weight.

    Source: XNOR-Net-PyTorch, MNIST/util.py (`meancenterConvParams`, `clampConvParams`).

    >>> CentreAndClip()(tf.constant([[1.0, 5.0], [0.0, 1.0]])).numpy().tolist()
    [[0.5, 1.0], [-0.5, -1.0]]
    """

    def __init__(self, limit: float = 1.0):
        self.limit = limit

    def __call__(self, kernel: tf.Tensor) -> tf.Tensor:
        """Return the constrained kernel, HWIO or IO."""
        centred = kernel - tf.reduce_mean(kernel, axis=-2, keepdims=True)
        return tf.clip_by_value(centred, -self.limit, self.limit)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for serialization."""
        return {"limit": self.limit}


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("at_least")
class AtLeast(tf.keras.constraints.Constraint):
    """Keep weights at or above a minimum: w ← max(w, minimum).

    XNOR-Net-PyTorch keeps the scales of batch norms at 0.01 or above (LeNet-5 and NIN, in `forward`).

    Args:
        minimum: Smallest value of a weight.

    >>> AtLeast(0.25)(tf.constant([-1.0, 0.5])).numpy().tolist()
    [0.25, 0.5]
    """

    def __init__(self, minimum: float):
        self.minimum = minimum

    def __call__(self, weight: tf.Tensor) -> tf.Tensor:
        """Return the constrained weight, of any shape."""
        return tf.maximum(weight, tf.constant(self.minimum, weight.dtype))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for serialization."""
        return {"minimum": self.minimum}


def clip_limit(constraint: Any) -> float | None:
    """Return the largest magnitude that a constraint leaves to a latent weight; None if there is none.

    A constraint that clips has it as the attribute `limit`, Larq's as `clip_value`.

    >>> clip_limit(CentreAndClip(0.5)), clip_limit(larq.constraints.WeightClip(1.25)), clip_limit(None)
    (0.5, 1.25, None)
    """
    return getattr(constraint, "limit", getattr(constraint, "clip_value", None))


def apply_constraints(model: tf.keras.Model) -> None:
    """Apply every constraint of a model once, as after an update.

    Call this for fresh or imported latent weights, before the first forward pass.

    >>> layer = tf.keras.layers.Dense(2, bias_constraint=AtLeast(1.0))
    >>> model = tf.keras.Sequential([tf.keras.layers.Input((4,)), layer])
    >>> apply_constraints(model)
    >>> layer.bias.numpy().tolist()
    [1.0, 1.0]
    """
    for variable in model.trainable_variables:
        if variable.constraint is not None:
            variable.assign(variable.constraint(variable))
