"""Layers that Larq lacks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import larq
import tensorflow as tf

_scope_of_larq = larq.context.quantized_scope


@contextlib.contextmanager
def quantized_scope(quantize: bool) -> Iterator[bool]:
    """Larq's scope in which kernels read as quantized, left also by an error.

    Larq's own stays on when a layer raises: from then on, latent weights would be read, and saved, as ±1. So this one
    takes its place.
    """
    scope = _scope_of_larq(quantize)
    value = scope.__enter__()
    try:
        yield value
    finally:
        scope.__exit__(None, None, None)


larq.context.quantized_scope = quantized_scope


@larq.utils.register_keras_custom_object
class ScaledConv2D(larq.layers.QuantConv2D):
    """A convolution with a kernel of one magnitude per filter, computed with the ±1 kernel.

    For a quantized kernel b = α · s with s = ±1 and one α for each filter: y = α · conv(x, s), not conv(x, α · s).
    The two are equal but for rounding. With ±1 inputs the first convolves integers, exactly, so that equal values stay
    equal: a max pool behind it sees true ties, as a binary kernel on a device does.

    Gradient: that of conv(x, b) with respect to b and x; there is none through the division by α. The quantizer alone
    says how it reaches the latent weights. Without a kernel quantizer, and with `NoOp` for Bop's kernels, which have no
    scale, this is `larq.layers.QuantConv2D`.

    Arguments and shapes are those of `larq.layers.QuantConv2D`.
    """

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Convolves the ±1 kernel and scales the result for each filter."""
        kernel = tf.convert_to_tensor(kernel)
        if self.kernel_quantizer is None or isinstance(self.kernel_quantizer, larq.quantizers.NoOp):
            return super().convolution_op(inputs, kernel)
        magnitude = tf.stop_gradient(tf.reduce_max(tf.abs(kernel), axis=(0, 1, 2)))
        magnitude = tf.where(magnitude > 0, magnitude, tf.ones_like(magnitude))
        return super().convolution_op(inputs, kernel / magnitude) * magnitude


@larq.utils.register_keras_custom_object
class TorchBatchNormalization(tf.keras.layers.BatchNormalization):
    """Batch norm with PyTorch's defaults and PyTorch's running variance.

    y = γ · (x − μ) / √(σ² + ε) + β. Running averages move by 1 − momentum towards the batch's; that of the variance
    towards σ² · n / (n − 1), n = values per channel. Keras does the same for float32 maps (its fused kernel), but takes
    σ² itself for vectors and in float64: after one step 9 % off for a batch of 4 vectors.

    Arguments and shapes are those of `tf.keras.layers.BatchNormalization`.

    Source: torch.nn.BatchNorm2d, torch.nn.BatchNorm1d.
    """

    def __init__(self, axis: int = -1, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs: Any):
        super().__init__(axis=axis, momentum=momentum, epsilon=epsilon, **kwargs)

    def call(self, inputs: tf.Tensor, training: Any = None, mask: Any = None) -> tf.Tensor:
        """The normalised inputs, in their shape."""
        values = tf.size(inputs) // tf.shape(inputs)[-1]
        self._correction = values / tf.maximum(values - 1, 1)
        return super().call(inputs, training=training, mask=mask)

    def _assign_moving_average(self, variable: Any, value: Any, momentum: float, inputs_size: Any) -> Any:
        if self.fused:
            return super()._assign_moving_average(variable, value, momentum, inputs_size)
        if variable is self.moving_variance:
            value = value * tf.cast(self._correction, value.dtype)
        # Keras's own has 1 − momentum as float32, whatever the variable is.
        return variable.assign_sub((variable - value) * tf.constant(1 - momentum, variable.dtype))


@larq.utils.register_keras_custom_object
class Subsample(tf.keras.layers.Layer):
    """Every other row and column: the second of each two where there is an even number of them, else the first.

    (batch, height, width, channels) → (batch, ⌈height / 2⌉, ⌈width / 2⌉, channels).

    It stands before a pointwise convolution of a shortcut. A 3×3 convolution with stride 2 and Keras's 'same' padding
    has its centre on just these pixels.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Half of the rows and columns."""
        top, left = (1 - size % 2 for size in inputs.shape[1:3])
        return inputs[:, top::2, left::2, :]


@larq.utils.register_keras_custom_object
class PadChannels(tf.keras.layers.Layer):
    """Adds channels of zeros, as parameter-free shortcuts do where the number of channels grows.

    Args:
        before: Channels in front.
        after: Channels behind.
    """

    def __init__(self, before: int, after: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.before = before
        self.after = after

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """(…, channels) → (…, before + channels + after)."""
        return tf.pad(inputs, [[0, 0]] * (len(inputs.shape) - 1) + [[self.before, self.after]])

    def get_config(self) -> dict[str, Any]:
        """The arguments, for serialization."""
        return {**super().get_config(), "before": self.before, "after": self.after}


@larq.utils.register_keras_custom_object
class PaddedAveragePooling2D(tf.keras.layers.AveragePooling2D):
    """Average pooling 3×3 with stride 2 that counts the zeros of its padding, as PyTorch's does.

    Padded to give what a convolution with 'same' padding gives: one row below and one column to the right where their
    number is even, else all round. (batch, height, width, channels) → (batch, ⌈height / 2⌉, ⌈width / 2⌉, channels).
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{"pool_size": 3, "strides": 2, "padding": "valid", **kwargs})

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Means of nine values each."""
        margins = [[size % 2, 1] for size in inputs.shape[1:3]]
        return super().call(tf.pad(inputs, [[0, 0], *margins, [0, 0]]))

    def compute_output_shape(self, input_shape: Any) -> tf.TensorShape:
        """Half of the rows and columns."""
        batch, height, width, channels = tf.TensorShape(input_shape)
        return tf.TensorShape([batch, -(-height // 2), -(-width // 2), channels])


@larq.utils.register_keras_custom_object
class Rotate180(tf.keras.layers.Layer):
    """Turns images by 180°.

    Keras pads at the bottom and on the right where PyTorch pads all round, so that a network computes what PyTorch's
    does once its images and kernels are turned. This layer stands in front of a network with a reference's weights: it
    then takes the image as it is.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """(batch, height, width, channels), rows and columns backwards."""
        return inputs[:, ::-1, ::-1, :]
