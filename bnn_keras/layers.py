"""Layers that Larq and Keras do not have, and Larq's quantized scope made safe for exceptions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import larq
import tensorflow as tf

from bnn_keras.quantizers import has_powers_of_two

_larq_quantized_scope = larq.context.quantized_scope


@contextlib.contextmanager
def quantized_scope(quantize: bool) -> Iterator[bool]:
    """Read kernels as quantized (True) or latent (False) inside a `with` block, and restore the old state at its end.

    This replaces Larq's own scope, which stays active if a layer raises: all later reads of latent weights, including
    those of a checkpoint, would then give ±1.

    >>> with quantized_scope(True):
    ...     larq.context.should_quantize()
    True
    >>> larq.context.should_quantize()
    False
    """
    scope = _larq_quantized_scope(quantize)
    value = scope.__enter__()
    try:
        yield value
    finally:
        scope.__exit__(None, None, None)


larq.context.quantized_scope = quantized_scope


@contextlib.contextmanager
def precision_policy(policy: Any) -> Iterator[None]:
    """Make layers built in a `with` block compute in a precision, and restore Keras's global policy at its end.

    Args:
        policy: A Keras policy or its name, such as "mixed_bfloat16".

    >>> with precision_policy("mixed_bfloat16"):
    ...     tf.keras.layers.ReLU().compute_dtype
    'bfloat16'
    """
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        # None, Keras's default, keeps following later changes of `floatx`.
        tf.keras.mixed_precision.set_global_policy(None if before.name == tf.keras.backend.floatx() else before)


@larq.utils.register_keras_custom_object
class ScaledConv2D(larq.layers.QuantConv2D):
    """Convolve with a binary kernel that has one magnitude per filter, using its ±1 values.

    For a quantized kernel b = α · s with s = ±1 and one α per filter, y = α · conv(x, s) instead of conv(x, α · s). The
    two differ by rounding only. If x is ±1, the convolution sums integers, which is exact: equal sums stay equal. A max
    pool behind the layer then has the same ties as on a device with binary kernels.

    The gradients are those of conv(x, b) with respect to b and x; no gradient passes through the division by α. The
    kernel quantizer alone defines the gradient of the latent weights. Without a kernel quantizer, or if every α is a
    power of two (`quantizers.has_powers_of_two`), which leaves sums exact, the layer is a `larq.layers.QuantConv2D`.

    Arguments and shapes are those of `larq.layers.QuantConv2D`.

    >>> from bnn_keras.quantizers import DetachedScaledSign
    >>> layer = ScaledConv2D(
    ...     1, 2, kernel_quantizer=DetachedScaledSign(), kernel_constraint="weight_clip", kernel_initializer="ones"
    ... )
    >>> layer(tf.ones((1, 2, 2, 1))).numpy().tolist()
    [[[[4.0]]]]
    """

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Convolve with the ±1 kernel and scale the result of each filter."""
        kernel, convolve = tf.convert_to_tensor(kernel), super().convolution_op
        if self.kernel_quantizer is None or has_powers_of_two(self.kernel_quantizer):
            return convolve(inputs, kernel)

        @tf.custom_gradient
        def scaled(inputs: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
            magnitude = tf.reduce_max(tf.abs(kernel), axis=(0, 1, 2))

            def grad(dy: tf.Tensor) -> Any:
                with tf.GradientTape() as tape:
                    tape.watch((inputs, kernel))
                    y = convolve(inputs, kernel)  # never runs in a graph, because only its gradient is used
                return tape.gradient(y, (inputs, kernel), dy)

            return convolve(inputs, tf.math.divide_no_nan(kernel, magnitude)) * magnitude, grad

        return scaled(inputs, kernel)


@larq.utils.register_keras_custom_object
class TorchBatchNormalization(tf.keras.layers.BatchNormalization):
    """Normalise batches with PyTorch's defaults and PyTorch's running variance.

    y = γ · (x − μ) / √(σ² + ε) + β. Each step moves the running averages by a fraction of 1 − momentum towards the
    statistics of the batch: the variance towards σ² · n / (n − 1), n = values per channel. Keras does the same for
    float32 feature maps (its fused kernel), but uses σ² itself for vectors and in float64. For a batch of 4 vectors
    that differs by 9 % after one step.

    Arguments and shapes are those of `tf.keras.layers.BatchNormalization`.

    Source: torch.nn.BatchNorm2d, torch.nn.BatchNorm1d.

    >>> layer = TorchBatchNormalization()
    >>> layer(tf.constant([[-1.0], [1.0]]), training=True).numpy().round(4).tolist()
    [[-1.0], [1.0]]
    >>> round(float(layer.moving_variance[0]), 4)  # 0.9 · 1 + 0.1 · 2
    1.1
    """

    def __init__(self, axis: int = -1, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs: Any):
        super().__init__(axis=axis, momentum=momentum, epsilon=epsilon, **kwargs)

    def call(self, inputs: tf.Tensor, training: Any = None, mask: Any = None) -> tf.Tensor:
        """Return the normalised inputs, in their shape."""
        values = tf.size(inputs) // tf.shape(inputs)[-1]
        self._correction = values / tf.maximum(values - 1, 1)
        return super().call(inputs, training=training, mask=mask)

    def _assign_moving_average(self, variable: Any, value: Any, momentum: float, inputs_size: Any) -> Any:
        if self.fused:
            return super()._assign_moving_average(variable, value, momentum, inputs_size)
        if variable is self.moving_variance:
            value = value * tf.cast(self._correction, value.dtype)
        # Keras computes 1 − momentum in float32 for variables of any type.
        return variable.assign_sub((variable - value) * tf.constant(1 - momentum, variable.dtype))


@larq.utils.register_keras_custom_object
class Subsample(tf.keras.layers.Layer):
    """Keep every other row and column: the second of each two if their number is even, else the first.

    (batch, height, width, channels) → (batch, ⌈height / 2⌉, ⌈width / 2⌉, channels).

    Use this in front of the pointwise convolution of a shortcut. A 3×3 convolution with stride 2 and Keras's 'same'
    padding is centred on the same pixels.

    >>> Subsample()(tf.reshape(tf.range(16), (1, 4, 4, 1))).numpy().ravel().tolist()
    [5, 7, 13, 15]
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return every other row and column."""
        top, left = (1 - size % 2 for size in inputs.shape[1:3])
        return inputs[:, top::2, left::2, :]


@larq.utils.register_keras_custom_object
class PadChannels(tf.keras.layers.Layer):
    """Add channels of zeros, as shortcuts without weights do if the number of channels grows.

    (…, channels) → (…, before + channels + after).

    Args:
        before: Number of channels in front.
        after: Number of channels behind.

    >>> PadChannels(1, 2)(tf.ones((1, 3))).numpy().tolist()
    [[0.0, 1.0, 1.0, 1.0, 0.0, 0.0]]
    """

    def __init__(self, before: int, after: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.before = before
        self.after = after

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the padded inputs."""
        return tf.pad(inputs, [[0, 0]] * (len(inputs.shape) - 1) + [[self.before, self.after]])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for serialization."""
        return {**super().get_config(), "before": self.before, "after": self.after}


@larq.utils.register_keras_custom_object
class PaddedAveragePooling2D(tf.keras.layers.AveragePooling2D):
    """Average over 3×3 windows with stride 2, counting the zeros of the padding, as PyTorch does.

    The padding gives the output shape of a convolution with 'same' padding: one row below if the height is even, else
    one row above and one below; columns accordingly. (batch, height, width, channels) →
    (batch, ⌈height / 2⌉, ⌈width / 2⌉, channels).

    >>> PaddedAveragePooling2D()(9 * tf.ones((1, 4, 4, 1))).numpy().ravel().tolist()
    [9.0, 6.0, 6.0, 4.0]
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{"pool_size": 3, "strides": 2, "padding": "valid", **kwargs})

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the means of nine values each."""
        margins = [[size % 2, 1] for size in inputs.shape[1:3]]
        return super().call(tf.pad(inputs, [[0, 0], *margins, [0, 0]]))

    def compute_output_shape(self, input_shape: Any) -> tf.TensorShape:
        """Return (batch, ⌈height / 2⌉, ⌈width / 2⌉, channels)."""
        batch, height, width, channels = tf.TensorShape(input_shape)
        return tf.TensorShape([batch, -(-height // 2), -(-width // 2), channels])


@larq.utils.register_keras_custom_object
class Rotate180(tf.keras.layers.Layer):
    """Rotate images by 180°. The shape stays (batch, height, width, channels).

    Keras pads at the bottom and on the right where PyTorch pads on all sides. A network in Keras therefore computes the
    same as in PyTorch if its images and kernels are rotated. Networks with the weights of a PyTorch reference start
    with this layer, so that they take images as they are.

    >>> Rotate180()(tf.reshape(tf.range(4), (1, 2, 2, 1))).numpy().ravel().tolist()
    [3, 2, 1, 0]
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the rotated images."""
        return inputs[:, ::-1, ::-1, :]
