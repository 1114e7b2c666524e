"""XNOR-Net's estimators (Rastegari et al. 2016, arXiv:1603.05279), as XNOR-Net-PyTorch computes them."""

from __future__ import annotations

from typing import Any

import larq
import tensorflow as tf


def xnor_sign(x: tf.Tensor) -> tf.Tensor:
    r"""Sign of activations.

    Forward: y = +1 where x ≥ 0, else −1. Backward: dx = dy where |x| < 1, else 0.

    Larq's `ste_sign` passes the gradient at |x| = 1 too. The reference's sign(0) is 0; ours is +1, as in Larq.

    Args:
        x: Activations of any shape.

    Returns:
        ±1 in the shape of `x`.

    Source: XNOR-Net-PyTorch, MNIST/models/LeNet_5.py (`BinActive`).
    """

    @tf.custom_gradient
    def _call(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def grad(dy: tf.Tensor) -> tf.Tensor:
            return tf.where(tf.abs(x) < 1, dy, tf.zeros_like(dy))

        return larq.math.sign(x), grad

    return _call(x)


def xnor_scaled_sign(
    kernel: tf.Tensor, fan_in_factor: bool = True, channel_factor: bool = True, gradient_scale: float = 1.0
) -> tf.Tensor:
    r"""Sign of a kernel, scaled by its mean magnitude for each filter.

    With the n weights w of a filter and its c input channels:

    Forward: b = α · sign(w), α = (1/n) Σ|w|  (eq. 6 of the paper).

    Backward: dw = s · n · (1 − 1/c) · (α · db · 1[|w| ≤ 1] + sign(w) · (1/n) Σ(db · sign(w))).

    The sum runs over the filter. The paper's gradient (its section 3.1) is db · (1/n + α · 1[|w| ≤ 1]): it lacks the
    sum and the factors in front. We follow the code. The factors matter for optimizers that are not scale-free, and for
    weight decay. sign(0) is +1 here and 0 in the reference.

    Args:
        kernel: HWIO (or IO) kernel; a filter is one index of the last axis.
        fan_in_factor: Whether the gradient is multiplied by n.
        channel_factor: Whether it is multiplied by 1 − 1/c.
        gradient_scale: s, 1 for MNIST and CIFAR-10; the reference has 1e9 for ImageNet.

    Returns:
        ±α in the shape of `kernel`.

    Source: XNOR-Net-PyTorch, MNIST/util.py (`binarizeConvParams`, `updateBinaryGradWeight`), ImageNet/networks/util.py.
    """
    filter_axes = tuple(range(len(kernel.shape) - 1))
    channels = kernel.shape[-2]
    weights = kernel.shape[:-1].num_elements()
    factor = (weights if fan_in_factor else 1) * (1 - 1 / channels if channel_factor else 1) * gradient_scale

    @tf.custom_gradient
    def _call(kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        sign = larq.math.sign(kernel)
        alpha = tf.reduce_mean(tf.abs(kernel), axis=filter_axes, keepdims=True)

        def grad(db: tf.Tensor) -> tf.Tensor:
            through_sign = tf.where(tf.abs(kernel) <= 1, alpha * db, tf.zeros_like(db))
            through_alpha = sign * tf.reduce_mean(db * sign, axis=filter_axes, keepdims=True)
            return tf.constant(factor, db.dtype) * (through_sign + through_alpha)

        return alpha * sign, grad

    return _call(kernel)


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("xnor_sign")
class XnorSign(larq.quantizers.Quantizer):
    """`xnor_sign` as a quantizer for the inputs of a layer."""

    precision = 1

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """±1 in the shape of `inputs`."""
        return xnor_sign(inputs)


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("xnor_scaled_sign")
class XnorScaledSign(larq.quantizers.Quantizer):
    """`xnor_scaled_sign` as a quantizer for the kernel of a layer; the arguments are the function's."""

    precision = 1

    def __init__(
        self, fan_in_factor: bool = True, channel_factor: bool = True, gradient_scale: float = 1.0, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.fan_in_factor = fan_in_factor
        self.channel_factor = channel_factor
        self.gradient_scale = gradient_scale

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """±α in the shape of the kernel."""
        return xnor_scaled_sign(inputs, self.fan_in_factor, self.channel_factor, self.gradient_scale)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for serialization."""
        return {
            **super().get_config(),
            "fan_in_factor": self.fan_in_factor,
            "channel_factor": self.channel_factor,
            "gradient_scale": self.gradient_scale,
        }
