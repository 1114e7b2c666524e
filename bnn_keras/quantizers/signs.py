"""Larq's two signs with the same values and gradients, in fewer passes over a feature map."""

from __future__ import annotations

from typing import Any

import larq
import tensorflow as tf

from bnn_keras import elementwise

_PLAIN_SIGNS = (larq.quantizers.SteSign, larq.quantizers.ApproxSign, larq.quantizers.SwishSign, larq.quantizers.NoOp)


def has_powers_of_two(quantizer: Any) -> bool:
    """Return whether the magnitudes of a quantized kernel are powers of two, such as 1.

    Multiplying by them is exact. A quantizer says so with the attribute `powers_of_two`. The kernels of `NoOp`, which
    Bop flips, are ±1.

    Args:
        quantizer: A kernel quantizer.

    >>> from bnn_keras.quantizers import BalancedScaledSign, XnorScaledSign
    >>> [has_powers_of_two(quantizer) for quantizer in (ClippedSign(), BalancedScaledSign(), XnorScaledSign())]
    [True, True, False]
    """
    return isinstance(quantizer, _PLAIN_SIGNS) or getattr(quantizer, "powers_of_two", False)


def clipped_sign(x: tf.Tensor, clip_value: float | None = 1.0) -> tf.Tensor:
    r"""Compute the sign with a clipped straight-through gradient.

    Forward: y = +1 where x ≥ 0, else −1. Backward: dx = dy where |x| ≤ clip_value, else 0.

    Args:
        x: Activations or weights of any shape.
        clip_value: Largest magnitude that passes the gradient; None to pass it everywhere.

    Returns:
        ±1 in the shape of `x`.

    Source: Courbariaux et al. 2016, arXiv:1602.02830, eq. 4; `larq.quantizers.SteSign`.

    >>> clipped_sign(tf.constant([-0.5, 0.0, 2.0])).numpy().tolist()
    [-1.0, 1.0, 1.0]
    """

    @tf.custom_gradient
    def _call(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def grad(dy: tf.Tensor) -> tf.Tensor:
            return dy if clip_value is None else elementwise.masked(dy, tf.abs(x) <= clip_value)

        return elementwise.sign(x), grad

    return _call(x)


@tf.custom_gradient
def approximate_sign(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
    r"""Compute the sign with the gradient of a piecewise quadratic function.

    Forward: y = +1 where x ≥ 0, else −1. Backward: dx = max(2 − 2|x|, 0) · dy.

    Args:
        x: Activations of any shape.

    Returns:
        ±1 in the shape of `x`.

    Source: Liu et al. 2018, arXiv:1808.00278, section 3.2; `larq.quantizers.ApproxSign`.

    >>> approximate_sign(tf.constant([-0.5, 0.0, 2.0])).numpy().tolist()
    [-1.0, 1.0, 1.0]
    """
    return elementwise.sign(x), lambda dy: elementwise.triangle(x) * dy


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("clipped_sign")
class ClippedSign(larq.quantizers.SteSign):
    """Quantize with `clipped_sign`. Arguments are those of `larq.quantizers.SteSign`.

    Picture: docs/quantizers.md#clippedsign

    >>> ClippedSign()(tf.constant([-0.5, 2.0])).numpy().tolist()
    [-1.0, 1.0]
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return ±1 in the shape of `inputs`."""
        return super(larq.quantizers.SteSign, self).call(clipped_sign(inputs, self.clip_value))


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("approximate_sign")
class ApproximateSign(larq.quantizers.ApproxSign):
    """Quantize with `approximate_sign`. Arguments are those of `larq.quantizers.ApproxSign`.

    Picture: docs/quantizers.md#approximatesign

    >>> ApproximateSign()(tf.constant([-0.5, 2.0])).numpy().tolist()
    [-1.0, 1.0]
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return ±1 in the shape of `inputs`."""
        return super(larq.quantizers.ApproxSign, self).call(approximate_sign(inputs))
