"""Elementwise operations of quantizers and optimizers, in the forms that TensorFlow computes fastest.

Every pass over a feature map costs about as much as a small convolution of it, and `tf.where` costs several passes.
"""

from __future__ import annotations

import tensorflow as tf


def sign(x: tf.Tensor) -> tf.Tensor:
    """Return +1 where x ≥ 0, −0.0 included, −1 where x < 0, and NaN where x is NaN.

    `tf.sign` is 0 for zeros: y = tf.sign(tf.sign(x) + 0.5).

    Args:
        x: Values of any shape and float type.

    Returns:
        ±1 in the shape and type of `x`. There is no gradient.

    >>> sign(tf.constant([-0.5, -0.0, 0.0, 2.0])).numpy().tolist()
    [-1.0, 1.0, 1.0, 1.0]
    """
    x = tf.convert_to_tensor(x)
    return tf.sign(tf.sign(x) + tf.constant(0.5, x.dtype))


def masked(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Return the values where a mask is true, else 0.

    A value that is infinite or NaN gives NaN where the mask is false.

    Args:
        values: Values of any shape and float type.
        mask: Booleans of that shape.

    >>> masked(tf.constant([2.0, 3.0]), tf.constant([True, False])).numpy().tolist()
    [2.0, 0.0]
    """
    return values * tf.cast(mask, values.dtype)


def triangle(x: tf.Tensor) -> tf.Tensor:
    """Return max(2 − 2|x|, 0), the derivative of Bi-Real Net's approximate sign.

    Args:
        x: Values of any shape and float type.

    >>> triangle(tf.constant([-2.0, -0.5, 0.0, 1.0])).numpy().tolist()
    [0.0, 1.0, 2.0, 0.0]
    """
    return tf.nn.relu(2 - 2 * tf.abs(x))
