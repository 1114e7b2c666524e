"""Real-valued activations: what stands in the place of a sign where activations keep 32 bits."""

from __future__ import annotations

from typing import Any

import larq
import tensorflow as tf

from bnn_keras.errors import BnnError, unknown


def clip(x: tf.Tensor) -> tf.Tensor:
    r"""Y = min(max(x, −1), 1), hardtanh. dx = dy where |x| < 1, else 0.

    Source: torch.nn.Hardtanh, as IR-Net uses it.
    """

    @tf.custom_gradient
    def _call(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        return tf.clip_by_value(x, -1, 1), lambda dy: tf.where(tf.abs(x) < 1, dy, tf.zeros_like(dy))

    return _call(x)


def leaky_clip(x: tf.Tensor) -> tf.Tensor:
    r"""Y = x where |x| ≤ 1, else 0.1 · x ± 0.9. dx = dy where |x| ≤ 1, else 0.1 · dy.

    Source: Bi-Real-net, pytorch_implementation/BiReal_50/birealnet.py (`Leakyclip`).
    """
    inside = tf.clip_by_value(x, -1, 1)
    return tf.where(tf.abs(x) <= 1, x, tf.constant(0.1, x.dtype) * x + tf.constant(0.9, x.dtype) * inside)


FUNCTIONS = {"relu": tf.nn.relu, "leaky_clip": leaky_clip, "clip": clip}


@larq.utils.register_keras_custom_object
class RealActivation(larq.quantizers.Quantizer):
    """A real-valued activation, as a layer or in the place of the quantizer of a layer's inputs.

    Args:
        function: "relu", "leaky_clip" or "clip": Bi-Real Net's first recipe trains with these, one after the other,
            before it binarizes.
    """

    precision = 32

    def __init__(self, function: str = "relu", **kwargs: Any):
        super().__init__(**kwargs)
        if function not in FUNCTIONS:
            raise BnnError(unknown("activation", function, FUNCTIONS))
        self.function = function

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The activation, in the shape of `inputs`."""
        return FUNCTIONS[self.function](inputs)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for serialization."""
        return {**super().get_config(), "function": self.function}
