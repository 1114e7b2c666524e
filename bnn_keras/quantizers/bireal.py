"""Bi-Real Net's estimator for kernels (Liu et al. 2018, arXiv:1808.00278). Activations use `approximate_sign`."""

from __future__ import annotations

from typing import Any

import larq
import tensorflow as tf

from bnn_keras import elementwise


def detached_scaled_sign(kernel: tf.Tensor, masked_gradient: bool = True) -> tf.Tensor:
    r"""Binarize a kernel to ±α for each filter, without a gradient through α.

    Forward: b = α · sign(w), α = mean |w| over the filter. Backward: dw = db · 1[|w| ≤ 1], or dw = db without the mask.

    Larq's `magnitude_aware_sign` has the same forward pass and mask but multiplies the gradient by α, as the paper does
    (section 3.3). This function follows the reference code. The reference computes b in three steps, which leave it up
    to two float32 roundings away from α · sign(w). sign(0) is +1 here and 0 in the reference.

    Args:
        kernel: HWIO (or IO) kernel; a filter is one index of the last axis.
        masked_gradient: Whether weights beyond ±1 pass no gradient, as in the reference's PyTorch code. Its Caffe code
            passes the gradient of b to all weights.

    Returns:
        ±α in the shape of `kernel`.

    Source: Bi-Real-net, pytorch_implementation/BiReal18_34/birealnet.py (`HardBinaryConv`); without the mask:
        caffe_implementation/Bi-Real-net-caffe/caffe-train/src/caffe/ex_layers/binary_conv_train_layer.cu.

    >>> detached_scaled_sign(tf.constant([[0.5, -2.0], [-1.0, 1.0]])).numpy().tolist()
    [[0.75, -1.5], [-0.75, 1.5]]
    """
    filter_axes = tuple(range(len(kernel.shape) - 1))

    @tf.custom_gradient
    def _call(kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        alpha = tf.reduce_mean(tf.abs(kernel), axis=filter_axes, keepdims=True)

        def grad(db: tf.Tensor) -> tf.Tensor:
            return elementwise.masked(db, tf.abs(kernel) <= 1) if masked_gradient else db

        return alpha * elementwise.sign(kernel), grad

    return _call(kernel)


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("detached_scaled_sign")
class DetachedScaledSign(larq.quantizers.Quantizer):
    """Quantize the kernel of a layer with `detached_scaled_sign`.

    Args:
        masked_gradient: Whether weights beyond ±1 pass no gradient.

    Picture: docs/quantizers.md#detachedscaledsign

    >>> DetachedScaledSign()(tf.constant([[0.5], [-1.0]])).numpy().tolist()
    [[0.75], [-0.75]]
    """

    precision = 1

    def __init__(self, masked_gradient: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.masked_gradient = masked_gradient

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return ±α in the shape of the kernel."""
        return detached_scaled_sign(inputs, self.masked_gradient)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for serialization."""
        return {**super().get_config(), "masked_gradient": self.masked_gradient}
