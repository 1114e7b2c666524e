"""Layers that Larq lacks."""

from __future__ import annotations

import larq
import tensorflow as tf


@larq.utils.register_keras_custom_object
class ScaledConv2D(larq.layers.QuantConv2D):
    """A convolution with a kernel of one magnitude per filter, computed with the ±1 kernel.

    For a quantized kernel b = α · s with s = ±1 and one α for each filter: y = α · conv(x, s), not conv(x, α · s).
    The two are equal but for rounding. With ±1 inputs the first convolves integers, exactly, so that equal values stay
    equal: a max pool behind it sees true ties, as a binary kernel on a device does.

    Gradient: that of conv(x, b) with respect to b and x; there is none through the division by α. The quantizer alone
    says how it reaches the latent weights. Without a kernel quantizer this is `larq.layers.QuantConv2D`.

    Arguments and shapes are those of `larq.layers.QuantConv2D`.
    """

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Convolves the ±1 kernel and scales the result for each filter."""
        kernel = tf.convert_to_tensor(kernel)
        if self.kernel_quantizer is None:
            return super().convolution_op(inputs, kernel)
        magnitude = tf.stop_gradient(tf.reduce_max(tf.abs(kernel), axis=(0, 1, 2)))
        magnitude = tf.where(magnitude > 0, magnitude, tf.ones_like(magnitude))
        return super().convolution_op(inputs, kernel / magnitude) * magnitude
