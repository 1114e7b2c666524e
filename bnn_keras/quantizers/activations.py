"""Real-valued activations, which replace the sign of activations at 32 bits."""

from __future__ import annotations

from typing import Any

import larq
import tensorflow as tf

from bnn_keras import elementwise
from bnn_keras.errors import BnnError, unknown


def clip(x: tf.Tensor) -> tf.Tensor:
    r"""Clip activations to [−1, 1] (hardtanh).

    Forward: y = min(max(x, −1), 1). Backward: dx = dy where |x| < 1, else 0.

    Args:
        x: Activations of any shape.

    Returns:
        The clipped activations, in the shape of `x`.

    Source: torch.nn.Hardtanh, as IR-Net uses it.

    >>> clip(tf.constant([-2.0, 0.5, 3.0])).numpy().tolist()
    [-1.0, 0.5, 1.0]
    """

    @tf.custom_gradient
    def _call(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        return tf.clip_by_value(x, -1, 1), lambda dy: elementwise.masked(dy, tf.abs(x) < 1)

    return _call(x)


def leaky_clip(x: tf.Tensor) -> tf.Tensor:
    r"""Clip activations to [−1, 1] with a slope of 0.1 outside.

    Forward: y = x where |x| ≤ 1, else 0.1 · x ± 0.9. Backward: dx = dy where |x| ≤ 1, else 0.1 · dy.

    Args:
        x: Activations of any shape.

    Returns:
        The activations, in the shape of `x`.

    Source: Bi-Real-net, pytorch_implementation/BiReal_50/birealnet.py (`Leakyclip`).

    >>> leaky_clip(tf.constant([-11.0, 0.5, 1.0])).numpy().tolist()
    [-2.0, 0.5, 1.0]
    """

    @tf.custom_gradient
    def _call(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        inside, slope = tf.clip_by_value(x, -1, 1), tf.constant(0.1, x.dtype)

        def grad(dy: tf.Tensor) -> tf.Tensor:
            passed = elementwise.masked(dy, tf.abs(x) <= 1)
            return passed + slope * (dy - passed)

        return inside + slope * (x - inside), grad

    return _call(x)


FUNCTIONS = {"relu": tf.nn.relu, "leaky_clip": leaky_clip, "clip": clip}


@larq.utils.register_keras_custom_object
class RealActivation(larq.quantizers.Quantizer):
    """Apply a real-valued activation, as a layer or as the input quantizer of a layer.

    Args:
        function: "relu", "leaky_clip" or "clip". The first recipe of Bi-Real Net trains with each of them in turn
            before it binarizes activations.

    Raises:
        BnnError: The function is unknown.

    Picture: docs/quantizers.md#realactivation

    >>> RealActivation("clip")(tf.constant([-2.0, 0.5])).numpy().tolist()
    [-1.0, 0.5]
    """

    precision = 32

    def __init__(self, function: str = "relu", **kwargs: Any):
        super().__init__(**kwargs)
        if function not in FUNCTIONS:
            raise BnnError(unknown("activation", function, FUNCTIONS))
        self.function = function

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the activation of `inputs`, in their shape."""
        return FUNCTIONS[self.function](inputs)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for serialization."""
        return {**super().get_config(), "function": self.function}
