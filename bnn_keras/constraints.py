"""What holds for latent weights after every update."""

from __future__ import annotations

from typing import Any

import larq
import tensorflow as tf


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("centre_and_clip")
class CentreAndClip(tf.keras.constraints.Constraint):
    """XNOR-Net's constraint on latent kernels: centre over the input channels, then clip.

    w ← clip(w − mean_c(w), −limit, limit), the mean over the input channels c at each position of each filter.

    The reference does this before every forward pass, those of evaluation included, which therefore change its latent
    weights where the clip is active. Here it is done once after each update (and once before the first forward pass):
    the same in training, and evaluation changes nothing.

    Args:
        limit: The largest magnitude of a latent weight.

    Source: XNOR-Net-PyTorch, MNIST/util.py (`meancenterConvParams`, `clampConvParams`).
    """

    def __init__(self, limit: float = 1.0):
        self.limit = limit

    def __call__(self, kernel: tf.Tensor) -> tf.Tensor:
        """The constrained kernel, HWIO or IO."""
        centred = kernel - tf.reduce_mean(kernel, axis=-2, keepdims=True)
        return tf.clip_by_value(centred, -self.limit, self.limit)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for serialization."""
        return {"limit": self.limit}


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("at_least")
class AtLeast(tf.keras.constraints.Constraint):
    """Keeps a weight from falling below a bound: w ← max(w, minimum).

    XNOR-Net-PyTorch holds batch norm's scales at 0.01 or above so (LeNet-5 and NIN, in `forward`).

    Args:
        minimum: The bound.
    """

    def __init__(self, minimum: float):
        self.minimum = minimum

    def __call__(self, weight: tf.Tensor) -> tf.Tensor:
        """The bounded weight, of any shape."""
        return tf.maximum(weight, tf.constant(self.minimum, weight.dtype))

    def get_config(self) -> dict[str, Any]:
        """The arguments, for serialization."""
        return {"minimum": self.minimum}


def apply_constraints(model: tf.keras.Model) -> None:
    """Applies every constraint of a model once, as after an update.

    Fresh and imported latent weights need it before the first forward pass.
    """
    for variable in model.trainable_variables:
        if variable.constraint is not None:
            variable.assign(variable.constraint(variable))
