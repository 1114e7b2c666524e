"""ReActNet's sign and activation with learnt shifts (Liu et al. 2020, arXiv:2003.03488), as its code computes them."""

from __future__ import annotations

from typing import Any

import larq
import tensorflow as tf

from bnn_keras import elementwise


def shifted_sign(x: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    r"""Compute RSign: the sign behind a learnt shift of each channel.

    Forward: y = +1 where x + b ≥ 0, else −1 (eq. 2 of the paper, α = −b).
    Backward: dx = max(2 − 2|x + b|, 0) · dy, db = Σ dx over everything but the channels.

    sign(0) is +1 here, as in Larq, and 0 in the reference.

    Args:
        x: Activations, (…, channels).
        shift: The shifts b, (channels,).

    Returns:
        ±1 in the shape of `x`.

    Source: ReActNet, resnet/birealnet.py and mobilenet/reactnet.py (`LearnableBias`, `BinaryActivation`).

    >>> shifted_sign(tf.constant([[-0.5, -0.5]]), tf.constant([0.0, 1.0])).numpy().tolist()
    [[-1.0, 1.0]]
    """

    @tf.custom_gradient
    def _call(shifted: tf.Tensor) -> tuple[tf.Tensor, Any]:
        # Exported networks keep this sign, and converters recognise Larq's form of it only.
        return larq.math.sign(shifted), lambda dy: elementwise.triangle(shifted) * dy

    return _call(x + shift)


def shifted_prelu(x: tf.Tensor, before: tf.Tensor, slope: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
    r"""Compute RPReLU: PReLU between two learnt shifts of each channel.

    Forward: z = x + b₁; y = z + b₂ where z > 0, else s · z + b₂ (eq. 4 of the paper, γ = −b₁, ζ = b₂).
    Backward: dx = dy where z > 0, else s · dy; ds = Σ z · dy where z ≤ 0; db₁ = Σ dx; db₂ = Σ dy.

    At z = 0 the gradient is s · dy, as in PyTorch. Keras's PReLU passes none.

    Args:
        x: Activations, (…, channels).
        before: The shifts b₁, (channels,).
        slope: The slopes s, (channels,).
        after: The shifts b₂, (channels,).

    Returns:
        The activations, in the shape of `x`.

    Source: ReActNet, resnet/birealnet.py and mobilenet/reactnet.py (`LearnableBias`, `nn.PReLU`).

    >>> zero, slope = tf.zeros(2), tf.constant([0.25, 0.5])
    >>> shifted_prelu(tf.constant([[-1.0, -1.0]]), zero, slope, after=zero + 1).numpy().tolist()
    [[0.75, 0.5]]
    """

    @tf.custom_gradient
    def _prelu(z: tf.Tensor, slope: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def grad(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            above = elementwise.masked(dy, z > 0)
            below = dy - above
            return above + slope * below, tf.reduce_sum(z * below, axis=tuple(range(len(z.shape) - 1)))

        return tf.nn.relu(z) + slope * tf.minimum(z, tf.constant(0, z.dtype)), grad

    return _prelu(x + before, slope) + after


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("shifted_sign")
class ShiftedSign(larq.quantizers.Quantizer):
    """Quantize the inputs of a layer with `shifted_sign`. The shifts are weights, and start at 0.

    Picture: docs/quantizers.md#shiftedsign

    >>> quantizer = ShiftedSign()
    >>> quantizer(tf.constant([[-0.5, 0.5]])).numpy().tolist()
    [[-1.0, 1.0]]
    >>> [tuple(weight.shape) for weight in quantizer.trainable_weights]
    [(2,)]
    """

    precision = 1

    def build(self, input_shape: Any) -> None:
        """Create the shifts."""
        self.shift = self.add_weight("shift", shape=(input_shape[-1],), initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return ±1 in the shape of `inputs`."""
        return shifted_sign(inputs, self.shift)


@larq.utils.register_keras_custom_object
class ShiftedPReLU(tf.keras.layers.Layer):
    """Apply `shifted_prelu`. Shifts and slopes are weights; shifts start at 0, slopes at 0.25.

    Picture: docs/quantizers.md#shiftedprelu

    >>> ShiftedPReLU()(tf.constant([[-1.0, 2.0]])).numpy().tolist()
    [[-0.25, 2.0]]
    """

    def build(self, input_shape: Any) -> None:
        """Create shifts and slopes."""
        shape = (input_shape[-1],)
        self.before = self.add_weight("before", shape=shape, initializer="zeros")
        self.slope = self.add_weight("slope", shape=shape, initializer=tf.keras.initializers.Constant(0.25))
        self.after = self.add_weight("after", shape=shape, initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the activations, in the shape of `inputs`."""
        return shifted_prelu(inputs, self.before, self.slope, self.after)
