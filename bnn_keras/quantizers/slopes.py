"""The slope of an estimator: which inputs of a quantizer pass a gradient."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

# Inputs with less than this share of the largest slope pass almost no gradient.
WINDOW = 0.01


def estimator_slope(quantizer: Any, x: tf.Tensor) -> tf.Tensor:
    """Return the slope of a quantizer's estimator at each input, in the shape of `x`.

    It is the gradient of the output with respect to `x`. A quantizer whose outputs depend on several inputs has a
    method `estimator_slope`, which returns that of its elementwise part.

    Args:
        quantizer: An input quantizer.
        x: Its inputs, (batch, …).

    >>> from bnn_keras.quantizers import ClippedSign
    >>> estimator_slope(ClippedSign(), tf.constant([-0.5, 2.0])).numpy().tolist()
    [1.0, 0.0]
    """
    own = getattr(quantizer, "estimator_slope", None)
    if own is not None:
        return own(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = quantizer(x)
    return tape.gradient(y, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def outside_window(quantizer: Any, x: tf.Tensor) -> tf.Tensor:
    """Return which inputs are outside of the window in which an estimator passes gradients.

    The slope there is at most 1 % of the largest one, which is that of an input or of zero. For a clipped sign, inputs
    beyond the clip are outside; for IR-Net's error decay, 1 − tanh²(t · x) ≤ 0.01 means |t · x| ≥ 2.99.

    Args:
        quantizer: An input quantizer.
        x: Its inputs, (batch, …).

    Returns:
        Booleans in the shape of `x`.

    >>> from bnn_keras.quantizers import ErrorDecaySign
    >>> outside_window(ErrorDecaySign(t=10.0, k=1.0), tf.constant([-0.5, 0.0, 0.2])).numpy().tolist()
    [True, False, False]
    """
    slope = tf.abs(estimator_slope(quantizer, x))
    largest = tf.maximum(tf.reduce_max(slope), tf.reduce_max(tf.abs(estimator_slope(quantizer, tf.zeros_like(x)))))
    return slope <= WINDOW * largest
