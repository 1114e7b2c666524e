"""McDonnell's estimator (McDonnell 2018, arXiv:1802.08530), as binary-wide-resnet computes it."""

from __future__ import annotations

from typing import Any

import larq
import tensorflow as tf

from bnn_keras import elementwise


def he_scaled_sign(kernel: tf.Tensor) -> tf.Tensor:
    r"""Binarize a kernel to ± the standard deviation of He's initialisation.

    Forward: b = √(2 / n) · sign(w), n = number of weights of a filter (eq. 1 of the paper). Backward: dw = db.

    The scale is one constant for the layer and does not depend on the weights. sign(0) is +1, as in the reference's
    packed weights; it is 0 in the reference's training.

    Args:
        kernel: HWIO (or IO) kernel; a filter is one index of the last axis.

    Returns:
        ±√(2 / n) in the shape of `kernel`.

    Source: binary-wide-resnet, wrn_mcdonnell.py (`ForwardSign`).

    >>> he_scaled_sign(tf.constant([[0.1], [-3.0]])).numpy().tolist()
    [[1.0], [-1.0]]
    """
    scale = (2 / kernel.shape[:-1].num_elements()) ** 0.5

    @tf.custom_gradient
    def _call(kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        return tf.constant(scale, kernel.dtype) * elementwise.sign(kernel), lambda db: db

    return _call(kernel)


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("he_scaled_sign")
class HeScaledSign(larq.quantizers.Quantizer):
    """Quantize the kernel of a layer with `he_scaled_sign`.

    Picture: docs/quantizers.md#hescaledsign

    >>> HeScaledSign()(tf.constant([[0.1], [-3.0]])).numpy().tolist()
    [[1.0], [-1.0]]
    """

    precision = 1
    one_scale = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return ±√(2 / n) in the shape of the kernel."""
        return he_scaled_sign(inputs)
