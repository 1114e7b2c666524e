"""Bi-Real Net's estimator of kernels (Liu et al. 2018, arXiv:1808.00278); of activations it is Larq's `approx_sign`."""

from __future__ import annotations

from typing import Any

import larq
import tensorflow as tf


def detached_scaled_sign(kernel: tf.Tensor) -> tf.Tensor:
    r"""Sign of a kernel, scaled by its mean magnitude for each filter; no gradient knows of the scale.

    Forward: b = α · sign(w), α = mean |w| over the filter. Backward: dw = db · 1[|w| ≤ 1].

    Larq's `magnitude_aware_sign` has the same forward pass and mask, but multiplies the gradient by α, as the paper
    does (its section 3.3): here the code is followed. The reference computes b in three steps that leave it up to
    two float32 roundings away from α · sign(w). Its sign(0) is 0, ours +1.

    Args:
        kernel: HWIO (or IO) kernel; a filter is one index of the last axis.

    Returns:
        ±α in the shape of `kernel`.

    Source: Bi-Real-net, pytorch_implementation/BiReal18_34/birealnet.py (`HardBinaryConv`).
    """
    filter_axes = tuple(range(len(kernel.shape) - 1))

    @tf.custom_gradient
    def _call(kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        alpha = tf.reduce_mean(tf.abs(kernel), axis=filter_axes, keepdims=True)

        def grad(db: tf.Tensor) -> tf.Tensor:
            return tf.where(tf.abs(kernel) <= 1, db, tf.zeros_like(db))

        return alpha * larq.math.sign(kernel), grad

    return _call(kernel)


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("detached_scaled_sign")
class DetachedScaledSign(larq.quantizers.Quantizer):
    """`detached_scaled_sign` as a quantizer for the kernel of a layer."""

    precision = 1

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """±α in the shape of the kernel."""
        return detached_scaled_sign(inputs)
