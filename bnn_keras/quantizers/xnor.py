"""XNOR-Net's estimators (Rastegari et al. 2016, arXiv:1603.05279), as XNOR-Net-PyTorch computes them."""

from __future__ import annotations

from typing import Any

import larq
import tensorflow as tf

from bnn_keras import elementwise


def xnor_sign(x: tf.Tensor) -> tf.Tensor:
    r"""Binarize activations to ±1.

    Forward: y = +1 where x ≥ 0, else −1. Backward: dx = dy where |x| < 1, else 0.

    Larq's `ste_sign` also passes the gradient at |x| = 1. sign(0) is +1 here, as in Larq, and 0 in the reference.

    Args:
        x: Activations of any shape.

    Returns:
        ±1 in the shape of `x`.

    Source: XNOR-Net-PyTorch, MNIST/models/LeNet_5.py (`BinActive`).

    >>> xnor_sign(tf.constant([-0.5, 0.0, 2.0])).numpy().tolist()
    [-1.0, 1.0, 1.0]
    """

    @tf.custom_gradient
    def _call(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def grad(dy: tf.Tensor) -> tf.Tensor:
            return elementwise.masked(dy, tf.abs(x) < 1)

        return elementwise.sign(x), grad

    return _call(x)


def xnor_scaled_sign(
    kernel: tf.Tensor, fan_in_factor: bool = True, channel_factor: bool = True, gradient_scale: float = 1.0
) -> tf.Tensor:
    r"""Binarize a kernel to ±α, its mean magnitude for each filter, with a gradient through α.

    For the n weights w of a filter with c input channels:

    Forward: b = α · sign(w), α = (1/n) Σ|w|  (eq. 6 of the paper).

    Backward: dw = s · n · (1 − 1/c) · (α · db · 1[|w| ≤ 1] + sign(w) · (1/n) Σ(db · sign(w))).

    The sum runs over the filter. The paper's gradient (section 3.1) is db · (1/n + α · 1[|w| ≤ 1]), without the sum and
    without the factors in front. This function follows the reference code. The factors matter for optimizers that are
    not scale-free and for weight decay. sign(0) is +1 here and 0 in the reference.

    Args:
        kernel: HWIO (or IO) kernel; a filter is one index of the last axis.
        fan_in_factor: Whether the gradient is multiplied by n.
        channel_factor: Whether the gradient is multiplied by 1 − 1/c.
        gradient_scale: The factor s. The reference uses 1 for MNIST and CIFAR-10, and 1e9 for ImageNet.

    Returns:
        ±α in the shape of `kernel`.

    Source: XNOR-Net-PyTorch, MNIST/util.py (`binarizeConvParams`, `updateBinaryGradWeight`), ImageNet/networks/util.py.

    >>> xnor_scaled_sign(tf.constant([[0.5, -2.0], [-1.0, 1.0]])).numpy().tolist()
    [[0.75, -1.5], [-0.75, 1.5]]
    """
    filter_axes = tuple(range(len(kernel.shape) - 1))
    channels = kernel.shape[-2]
    weights = kernel.shape[:-1].num_elements()
    factor = (weights if fan_in_factor else 1) * (1 - 1 / channels if channel_factor else 1) * gradient_scale

    @tf.custom_gradient
    def _call(kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        sign = elementwise.sign(kernel)
        alpha = tf.reduce_mean(tf.abs(kernel), axis=filter_axes, keepdims=True)

        def grad(db: tf.Tensor) -> tf.Tensor:
            through_sign = elementwise.masked(alpha * db, tf.abs(kernel) <= 1)
            through_alpha = sign * tf.reduce_mean(db * sign, axis=filter_axes, keepdims=True)
            return tf.constant(factor, db.dtype) * (through_sign + through_alpha)

        return alpha * sign, grad

    return _call(kernel)


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("xnor_sign")
class XnorSign(larq.quantizers.Quantizer):
    """Quantize the inputs of a layer with `xnor_sign`.

    Picture: docs/quantizers.md#xnorsign

    >>> XnorSign()(tf.constant([-0.5, 2.0])).numpy().tolist()
    [-1.0, 1.0]
    """

    precision = 1

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return ±1 in the shape of `inputs`."""
        return xnor_sign(inputs)

    def inference_form(self) -> larq.quantizers.Quantizer:
        """Return the sign."""
        return larq.quantizers.SteSign()


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("xnor_scaled_sign")
class XnorScaledSign(larq.quantizers.Quantizer):
    """Quantize the kernel of a layer with `xnor_scaled_sign`.

    Args:
        fan_in_factor: Whether the gradient is multiplied by n, the number of weights of a filter.
        channel_factor: Whether the gradient is multiplied by 1 − 1/c, c input channels.
        gradient_scale: Factor of the gradient.

    Picture: docs/quantizers.md#xnorscaledsign

    >>> XnorScaledSign()(tf.constant([[0.5], [-1.0]])).numpy().tolist()
    [[0.75], [-0.75]]
    """

    precision = 1

    def __init__(
        self, fan_in_factor: bool = True, channel_factor: bool = True, gradient_scale: float = 1.0, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.fan_in_factor = fan_in_factor
        self.channel_factor = channel_factor
        self.gradient_scale = gradient_scale

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return ±α in the shape of the kernel."""
        return xnor_scaled_sign(inputs, self.fan_in_factor, self.channel_factor, self.gradient_scale)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for serialization."""
        return {
            **super().get_config(),
            "fan_in_factor": self.fan_in_factor,
            "channel_factor": self.channel_factor,
            "gradient_scale": self.gradient_scale,
        }
